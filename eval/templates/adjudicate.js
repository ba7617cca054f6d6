"use strict";
// One row at a time, decided with the keyboard. Everything shown goes in as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const element = (tag, words, kind) => {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (kind) made.className = kind;
  return made;
};
const store = "distill-decisions:" + data.name;
const clauseOf = new Map(data.clauses.map((clause) => [clause.id, clause]));
const decisions = new Map();
let shown = data.cases;
let at = 0;
let unsaved = false;

// A browser may forbid storage to files; the page then works all the same and forgets on reload.
const keep = () => {
  try { localStorage.setItem(store, JSON.stringify({ who: byId("who").value, made: [...decisions] })); } catch { /* as said */ }
};
try {
  const kept = JSON.parse(localStorage.getItem(store) || "null");
  const known = new Set(data.cases.map((one) => one.row_id));
  for (const [id, made] of kept?.made || []) if (known.has(id)) decisions.set(id, made);
  byId("who").value = kept?.who || "";
} catch { /* as said */ }

const current = () => shown[at];
const change = (part) => {
  const row = current();
  if (!row) return;
  const before = decisions.get(row.row_id) || { label: null, clauses: [], note: "" };
  decisions.set(row.row_id, { ...before, ...part, decided_at: new Date().toISOString() });
  unsaved = true;
  keep();
};
const decided = (row) => Boolean(decisions.get(row.row_id)?.label);

function count() {
  const made = data.cases.filter(decided).length;
  byId("progress").value = made;
  byId("count").textContent = made + " of " + data.cases.length + " decided" + (unsaved ? ", not saved yet" : "");
  const lines = data.cases.filter(decided).map((row) => {
    const made = decisions.get(row.row_id);
    const line = element("tr");
    const head = element("th");
    head.scope = "row";
    const jump = element("button", row.inputs[data.inputs[0]] || row.row_id, "link");
    jump.type = "button";
    jump.dir = "auto";
    jump.addEventListener("click", () => { choose(""); go(data.cases.indexOf(row)); });
    head.append(jump, element("span", row.row_id, "ci mono stack"));
    const note = element("td", made.note);
    note.dir = "auto";
    line.append(head, element("td", made.label), element("td", made.clauses.join(", ")), note);
    return line;
  });
  byId("decided-rows").replaceChildren(...lines);
  byId("decided").hidden = !lines.length;
}

function side(label, voices) {
  const box = element("article", undefined, "side");
  const head = element("h3", label);
  head.append(element("span", voices.length === 1 ? "1 judge" : voices.length + " judges", "ci"));
  box.append(head);
  for (const voice of voices) {
    const who = element("p", undefined, "voice");
    who.append(element("b", voice.judge));
    if (voice.confidence !== null) who.append(element("span", Math.round(100 * voice.confidence) + "% sure", "ci"));
    for (const id of voice.clauses) {
      const pill = element("span", id, "pill mono");
      pill.title = clauseOf.has(id) ? clauseOf.get(id).title + ": " + clauseOf.get(id).text : "not in the guideline";
      who.append(pill);
    }
    if (voice.attributed) who.append(element("span", "from its words", "ci"));
    box.append(who);
    if (voice.trace) {
      const trace = element("blockquote", voice.trace);
      trace.dir = "auto";
      box.append(trace);
    }
  }
  return box;
}

function show() {
  const row = current();
  byId("case").hidden = !row;
  if (!row) return count();
  byId("place").textContent = "Row " + (at + 1) + " of " + shown.length + " · " + row.row_id;
  byId("case-title").textContent = row.inputs[data.inputs[0]] || "–";
  byId("listing").replaceChildren(...data.inputs.slice(1).flatMap((name) => {
    const value = element("dd", row.inputs[name] || "–");
    value.dir = "auto";
    return [element("dt", name), value];
  }));
  byId("why").textContent = "Likely: " + row.cause.replaceAll("_", " ") + (row.evidence ? " – " + row.evidence : "") +
    (row.gold ? ". Gold so far: " + row.gold : "");
  const sides = new Map(data.labels.map((label) => [label, []]));
  for (const voice of row.said) sides.get(voice.label)?.push(voice);
  byId("sides").replaceChildren(...[...sides].filter(([, voices]) => voices.length).map(([label, voices]) => side(label, voices)));
  const made = decisions.get(row.row_id);
  byId("choices").replaceChildren(...data.labels.map((label, place) => {
    const button = element("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(made?.label === label));
    if (place < 9) button.append(element("kbd", String(place + 1)));
    button.append(label);
    button.addEventListener("click", () => pick(label));
    return button;
  }));
  const cited = new Set(row.said.flatMap((voice) => voice.clauses));
  const order = [...data.clauses].sort((a, b) => cited.has(b.id) - cited.has(a.id));
  byId("clauses").replaceChildren(...order.map((clause) => {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.checked = Boolean(made?.clauses.includes(clause.id));
    box.addEventListener("change", () => {
      const others = (decisions.get(row.row_id)?.clauses || []).filter((id) => id !== clause.id);
      change({ clauses: box.checked ? [...others, clause.id] : others });
      count();
    });
    const words = element("span");
    words.append(element("b", clause.id + " " + clause.title), element("span", " " + clause.text, "muted"));
    label.append(box, words);
    return label;
  }));
  byId("clause-box").hidden = !data.clauses.length;
  byId("note").value = made?.note || "";
  byId("back").disabled = at === 0;
  byId("next").disabled = at === shown.length - 1;
  byId("clear").disabled = !made;
  count();
}

function go(place) {
  at = Math.max(0, Math.min(shown.length - 1, place));
  show();
}
function pick(label) {
  change({ label });
  // With a clause or a note under way the row stays, so that what is written belongs to what is seen.
  if (byId("clause-box").open || byId("note").value) show(); else go(at + 1);
  byId("case").focus({ preventScroll: true });
}
function choose(cause) {
  byId("filter").value = cause;
  shown = data.cases.filter((row) => !cause || row.cause === cause);
  go(0);
}
function undecided() {
  const place = shown.findIndex((row, index) => index > at && !decided(row));
  const first = place < 0 ? shown.findIndex((row) => !decided(row)) : place;
  if (first >= 0) go(first);
}
function takeBack() {
  if (current() && decisions.delete(current().row_id)) { unsaved = true; keep(); show(); }
}
function saved() {
  const made = data.cases.filter(decided).map((row) => ({ row_id: row.row_id, ...decisions.get(row.row_id) }));
  return { format: data.format, version: 1, name: data.name, guideline: data.guideline, decided_by: byId("who").value.trim(), decisions: made };
}
function save() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(saved(), null, 1) + "\n"], { type: "application/json" }));
  link.download = data.name.replace(/[^\w.-]+/g, "-") + "-decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  unsaved = false;
  count();
}

for (const cause of new Set(data.cases.map((row) => row.cause))) {
  const option = element("option", cause.replaceAll("_", " "));
  option.value = cause;
  byId("filter").append(option);
}
byId("filter").addEventListener("change", () => choose(byId("filter").value));
byId("who").addEventListener("change", keep);
byId("note").addEventListener("input", () => { change({ note: byId("note").value }); count(); });
byId("back").addEventListener("click", () => go(at - 1));
byId("next").addEventListener("click", () => go(at + 1));
byId("clear").addEventListener("click", takeBack);
byId("save").addEventListener("click", save);
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target.matches("textarea, select, input:not([type=checkbox])");
  if (event.key === "Escape") { event.target.blur(); byId("case").focus({ preventScroll: true }); return; }
  if (writing) return;
  const label = data.labels[Number(event.key) - 1];
  const moves = {
    ArrowRight: () => go(at + 1), j: () => go(at + 1), ArrowLeft: () => go(at - 1), k: () => go(at - 1), u: undecided,
    x: takeBack, s: save, n: () => byId("note").focus(),
    c: () => { byId("clause-box").open = true; byId("clauses").querySelector("input")?.focus(); },
  };
  const move = /^[1-9]$/.test(event.key) && label ? () => pick(label) : moves[event.key];
  if (!move) return;
  event.preventDefault();
  move();
});
show();
