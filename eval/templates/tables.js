"use strict";
// Sorts, searches and pages tables in place. Without it every row is there to read.
const PAGE = 200;
const collator = new Intl.Collator(undefined, { numeric: true });
for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ||
        (head.classList.contains("n") && head.getAttribute("aria-sort") !== "descending");
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((row, place) => {
        const cell = row.cells[column];
        const raw = cell.dataset.key ?? cell.textContent.trim();
        return { row, place, raw, value: raw === "" ? NaN : Number(raw) };
      });
      const numeric = keyed.every((item) => item.raw === "" || !Number.isNaN(item.value));
      keyed.sort((a, b) => {
        if ((a.raw === "") !== (b.raw === "")) return a.raw === "" ? 1 : -1;
        const order = numeric ? a.value - b.value : collator.compare(a.raw, b.raw);
        return (down ? -order : order) || a.place - b.place;
      });
      body.replaceChildren(...keyed.map((item) => item.row));
      table.dispatchEvent(new Event("sorted"));
    });
  });
}
for (const tools of document.querySelectorAll(".tools[data-for]")) {
  const table = document.getElementById(tools.dataset.for);
  const texts = new Map();
  const search = tools.querySelector("input[type=search]");
  const picks = [...tools.querySelectorAll("select")];
  const output = tools.querySelector("output");
  const more = tools.querySelector("button");
  let limit = PAGE;
  const apply = () => {
    const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    let found = 0;
    for (const row of rows) {
      const keep = picks.every((pick) =>
        !pick.value || (row.getAttribute("data-" + pick.name) || "").split("\n").includes(pick.value)) &&
        words.every((word) => {
          let text = texts.get(row);
          if (text === undefined) texts.set(row, text = row.textContent.toLocaleLowerCase());
          return text.includes(word);
        });
      found += keep;
      row.hidden = !keep || found > limit;
    }
    output.textContent = found + " of " + rows.length + " rows" + (found > limit ? ", the first " + limit + " shown" : "");
    more.hidden = found <= limit;
  };
  search.addEventListener("input", apply);
  for (const pick of picks) pick.addEventListener("change", apply);
  table.addEventListener("sorted", apply);
  more.addEventListener("click", () => { limit = Infinity; apply(); });
  apply();
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("main details:not(td details)")) details.open = true;
});
