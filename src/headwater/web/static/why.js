// The Why? page: asks without losing the old answer; marks rows; a word pinned in one answer is pinned in the other.
import { announce, ask, make } from "./frame.js";

const main = document.querySelector("main");
const failure = document.querySelector(".failure");
const working = document.querySelector(".working");
const here = new URLSearchParams(location.search);
const marked = new Set(here.getAll("marked").map(Number));
const undone = []; // what to do to undo each step, the last step last

// Ask the API first: its answer is kept, so that the page comes at once; and a failure leaves the old answer standing.
async function go(asked) {
  for (const [name, value] of [...asked]) if (value === "") asked.delete(name, value);
  asked.delete("marked");
  const methods = asked.getAll("method");
  failure.hidden = true;
  main.setAttribute("aria-busy", "true");
  try {
    for (const method of methods.length ? methods : [null]) {
      const one = new URLSearchParams(asked);
      one.delete("method");
      if (method) one.set("method", method);
      tell(`Explaining${method ? ` by ${method}` : ""}…`);
      await ask(`/api/why?${one}`);
    }
    for (const row of marked) asked.append("marked", row);
    location.assign(`/why?${asked}`);
  } catch (problem) {
    failure.textContent = problem.message;
    failure.hidden = false;
    tell("");
    main.removeAttribute("aria-busy");
  }
}

function tell(text) {
  announce(text);
  if (!working) return;
  working.textContent = text;
  working.hidden = !text;
}

for (const form of document.querySelectorAll("form[data-ask]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(new URLSearchParams(new FormData(form)));
  });
  if (form.classList.contains("choose")) form.addEventListener("change", () => form.requestSubmit());
}
for (const link of document.querySelectorAll("a[data-ask]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(new URL(link.href).searchParams);
  });
}
addEventListener("pageshow", () => {
  main.removeAttribute("aria-busy");
  tell("");
});

// A part of a completion: the selection, counted in characters of the text as it is (a text field has no CR).
const completion = document.querySelector("#completion");
if (completion) {
  const text = completion.dataset.text;
  const shown = text.replace(/\r\n?/g, "\n");
  const counted = (to) => {
    let at = 0;
    for (let seen = 0; seen < to; seen += 1) at += text.startsWith("\r\n", at) ? 2 : 1;
    return [...text.slice(0, at)].length;
  };
  const take = () => {
    const { selectionStart: from, selectionEnd: to, form } = completion;
    if (from === to || to > shown.length) return;
    form.elements.start.value = counted(from);
    form.elements.end.value = counted(to);
  };
  for (const kind of ["select", "pointerup", "keyup"]) completion.addEventListener(kind, take);
}

// Marks: in the address, so that they can be shared and outlive the next question.
const tray = document.querySelector(".tray");
const rowOf = (card) => Number(card.id.match(/^q\d+[ta](\d+)$/)[1]);
const percent = (share) => (share > 0 && share < 0.005 ? "under 1%" : `${Math.round(100 * share)}%`);
let asking = null;

function furnish(card) {
  const button = make("button", { type: "button", class: "mark", "aria-pressed": "false" }, "mark");
  button.title = "Mark this row for removal, and see what that would take from the push";
  button.addEventListener("click", () => toggle(rowOf(card)));
  card.querySelector(".sum").append(button);
}

function toggle(row) {
  const before = [...marked];
  undone.push(() => {
    marked.clear();
    before.forEach((each) => marked.add(each));
  });
  if (!marked.delete(row)) marked.add(row);
  announce(`Row ${row} ${marked.has(row) ? "marked" : "no longer marked"}.`);
  show();
}

function show() {
  for (const card of document.querySelectorAll(".card")) {
    const on = marked.has(rowOf(card));
    card.classList.toggle("marked", on);
    const button = card.querySelector(".mark");
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "marked" : "mark";
  }
  const place = new URL(location.href);
  place.searchParams.delete("marked");
  for (const row of marked) place.searchParams.append("marked", row);
  history.replaceState(null, "", place);
  tray.hidden = !marked.size && !undone.length;
  const at = tray.dataset.rows;
  const links = [...marked].map((row) => make(at ? "a" : "span", { href: at ? at + row : null }, `row ${row.toLocaleString("en")}`));
  tray.querySelector(".rows").replaceChildren(`${marked.size} marked`, ...links);
  tray.querySelector(".undo").disabled = !undone.length;
  tray.querySelector(".clear").disabled = !marked.size;
  estimate();
}

// What the marked rows hold of the push of the first answer; an older question in flight is called off.
async function estimate() {
  asking?.abort();
  const effect = tray.querySelector(".effect");
  effect.textContent = "";
  if (!marked.size) return;
  asking = new AbortController();
  const asked = new URLSearchParams(location.search);
  const method = asked.get("method");
  asked.delete("method");
  if (method) asked.set("method", method);
  effect.textContent = "Estimating…";
  try {
    const found = await ask(`/api/why/removal?${asked}`, { signal: asking.signal });
    const told = [["toward", found.toward], ["away from", found.away]].filter(([, share]) => share !== null);
    const parts = told.flatMap(([side, share], at) => [at ? " and " : "", make("b", {}, percent(share)), ` of the push ${side}`]);
    const label = make("bdi", {}, document.querySelector(".answers").dataset.label);
    const end = make("span", { class: "more" }, " Without them that much less, to first order: what training would learn from the other rows instead is not in it.");
    effect.replaceChildren(marked.size === 1 ? "It holds " : "They hold ", ...parts, " ", label, ".", end);
  } catch (problem) {
    if (problem.name !== "AbortError") effect.textContent = problem.message;
  }
}

if (tray) {
  document.querySelectorAll(".card").forEach(furnish);
  const undo = () => {
    undone.pop()?.();
    show();
  };
  tray.querySelector(".undo").addEventListener("click", undo);
  tray.querySelector(".clear").addEventListener("click", () => {
    const before = [...marked];
    undone.push(() => before.forEach((row) => marked.add(row)));
    marked.clear();
    show();
  });
  show();

  const follow = (selector) => document.querySelector(selector)?.click();
  listenTo({
    ...moves,
    l: lightAll,
    x: () => current && toggle(rowOf(current)),
    u: undo,
    o: () => current?.querySelector(".row a")?.click(),
    n: () => follow("a[rel=next]"),
    p: () => follow("a[rel=prev]"),
  });

  document.querySelector(".methods").addEventListener("pinned", ({ target, detail }) => {
    for (const section of document.querySelectorAll(".query")) {
      const other = answerOf(section);
      if (section !== target && other.query && other.pinned !== detail) other.pin(detail ?? other.pinned);
    }
  });
}
