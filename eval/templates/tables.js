"use strict";
// Sorts and filters tables in place. Everything stays readable without it.
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
        const order = numeric ? a.value - b.value : a.raw.localeCompare(b.raw);
        return (down ? -order : order) || a.place - b.place;
      });
      body.append(...keyed.map((item) => item.row));
    });
  });
}
for (const tools of document.querySelectorAll(".tools[data-for]")) {
  const rows = [...document.getElementById(tools.dataset.for).tBodies[0].rows];
  const texts = new Map();
  const search = tools.querySelector("input[type=search]");
  const picks = [...tools.querySelectorAll("select")];
  const output = tools.querySelector("output");
  const apply = () => {
    const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      let text = texts.get(row);
      if (text === undefined) texts.set(row, text = row.textContent.toLocaleLowerCase());
      const keep = words.every((word) => text.includes(word)) && picks.every((pick) =>
        !pick.value || (row.getAttribute("data-" + pick.name) || "").split("\n").includes(pick.value));
      row.hidden = !keep;
      shown += keep;
    }
    output.textContent = shown + " of " + rows.length + " rows";
  };
  search.addEventListener("input", apply);
  for (const pick of picks) pick.addEventListener("change", apply);
  apply();
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("main details:not(td details)")) details.open = true;
});
