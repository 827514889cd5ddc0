// The Why? page: asks without losing the old answer; marks rows; a word pinned in one answer is pinned in the other.
import { announce, ask, make, stageOf } from "./frame.js";
import { Marks, tell as tellMark } from "./marks.js";

const main = document.querySelector("main");
const failure = document.querySelector(".failure");
const working = document.querySelector(".working");
const marks = document.querySelector(".tray") && new Marks(0, () => {});

// Ask the API first: its answer is kept, so that the page comes at once; and a failure leaves the old answer standing.
let asked = null; // the question in flight; a newer one calls it off
async function go(question) {
  for (const [name, value] of [...question]) if (value === "") question.delete(name, value);
  const methods = question.getAll("method");
  asked?.abort();
  const mine = (asked = new AbortController());
  const since = performance.now();
  failure.hidden = true;
  main.setAttribute("aria-busy", "true");
  try {
    for (const [at, method] of (methods.length ? methods : [null]).entries()) {
      const one = new URLSearchParams(question);
      one.delete("method");
      if (method) one.set("method", method);
      const name = `${methods.length > 1 ? `${at + 1} of ${methods.length}: ` : ""}${method ?? "Explaining"}`;
      const show = (found) => tell(`${name}: ${stageOf(found)}`, (performance.now() - since) / 1000);
      tell(`${name}…`);
      await ask(`/api/why?${one}`, { signal: mine.signal, tell: show });
    }
    location.assign(`/why?${question}`);
  } catch (problem) {
    if (problem.name === "AbortError" && asked !== mine) return;
    failure.textContent = problem.message;
    failure.hidden = false;
    tell("");
    main.removeAttribute("aria-busy");
  }
}

// What is being done; screen readers hear of a new stage, not of every second.
function tell(text, seconds = 0) {
  if (working.dataset.stage !== text) announce(text);
  working.dataset.stage = text;
  working.textContent = seconds ? `${text} · ${seconds.toFixed(0)} s` : text;
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

// Marks: written at once, and the same in every tab.
const tray = document.querySelector(".tray");
const rowOf = (card) => Number(card.id.match(/^q\d+[ta](\d+)$/)[1]);
const percent = (share) => (share > 0 && share < 0.005 ? "under 1%" : `${Math.round(100 * share)}%`);
const LINKS = 12; // rows named in the tray
const suggested = new Map(); // row -> what an audit suggests
let asking = null;

const byPlace = (document.querySelector(".answers")?.dataset.places ?? "").split(" ");
const listed = (document.querySelector(".answers")?.dataset.listed ?? "").split(" ");
const labels = tray ? JSON.parse(tray.dataset.labels) : [];

function furnish(card) {
  const button = make("button", { type: "button", class: "mark", "aria-pressed": "false" }, "mark");
  button.title = "Mark this row for deletion, and see what that would take from the push";
  button.addEventListener("click", () => toggle(card));
  const sum = card.querySelector(".sum");
  sum.append(button);
  if (!repeats(card) || !byPlace.includes(card.closest(".query").id)) return;
  const apart = make("button", { type: "button", class: "apart" }, "by place");
  apart.title = "A word that stands in several places shares one score: pass the row through the model again, and tell the places apart";
  apart.addEventListener("click", () => open(card));
  button.before(apart);
}

const repeats = (card) => [...card.querySelectorAll(".t u")].some((mark) => mark.dataset.n?.startsWith("×"));

// Open a card: its words by place. The old card stays until the new one is there, and if it does not come.
async function open(card) {
  const button = card.querySelector(".apart");
  if (!button || button.hasAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true"); // disabled, it would lose the focus
  failure.hidden = true;
  const asked = new URLSearchParams(location.search);
  asked.delete("marked");
  asked.set("opened", rowOf(card));
  try {
    const told = await ask(`/why/card?${asked}`, { tell: (found) => (button.textContent = stageOf(found)) });
    const fresh = new DOMParser().parseFromString(told, "text/html").querySelector(".card");
    const lit = card.classList.contains("all");
    const answer = answerOf(card.closest(".query"));
    answer.swap(card, fresh);
    furnish(fresh);
    if (bar.parentNode === card) fresh.append(bar);
    if (lit) answer.toggleAll(fresh, true);
    show();
    badge([fresh]);
    propose(fresh);
    announce(`Row ${rowOf(fresh)}: by place.`);
  } catch (problem) {
    failure.textContent = problem.message;
    failure.hidden = false;
    button.removeAttribute("aria-disabled");
    button.textContent = "by place";
  }
}

// The ways to decide on the current row, by mouse or finger: one bar, which goes where the current card is.
const bar = make("p", { class: "decide", role: "group", "aria-label": "Decide on this row" });
function furnishBar() {
  const add = (text, key, act) => {
    const button = make("button", { type: "button", "aria-keyshortcuts": key }, make("kbd", {}, key), " ", text);
    button.addEventListener("click", () => current && act(current));
    bar.append(button, " ");
  };
  add("delete", "x", remove);
  labels.slice(0, 9).forEach((label, at) => add(make("bdi", {}, label), String(at + 1), (card) => relabel(card, label)));
  add("keep", "q", (card) => decide(rowOf(card), "keep"));
  document.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card && bar.parentNode !== card) card.append(bar);
  });
}

// How often the rows stand in lists of held-out rows, where that is known by now. The lists are of one method, without
// options: its own cards alone are told.
const hubs = new Map();
let lists = null;
function badge(cards) {
  for (const card of cards) {
    const count = hubs.get(rowOf(card));
    if (!lists || !count || card.querySelector(".hub") || !listed.includes(card.closest(".query").id)) continue;
    const told = make("span", { class: "hub" }, `in ${count.toLocaleString("en")} of ${lists.toLocaleString("en")} lists`);
    told.title = `Of ${lists} held-out rows, this row is among the ten strongest either way for ${count}`;
    card.querySelector("header .row").after(" ", told);
  }
}
async function findHubs() {
  const rows = [...new Set([...document.querySelectorAll(".card")].map(rowOf))];
  const found = await ask(`/api/hubs?${new URLSearchParams(rows.map((row) => ["row", row]))}`);
  lists = found.lists;
  for (const [row, count] of Object.entries(found.rows)) hubs.set(Number(row), count);
  badge(document.querySelectorAll(".card"));
}

// The text is edited where it stands; without scripts the form waits folded above.
function editInPlace() {
  const details = document.querySelector("details.rewrite");
  const form = details?.querySelector("form");
  const asked = document.querySelector("#q1 .asked");
  if (!form || !asked) return () => {};
  const edit = make("button", { type: "button", class: "edit-text", "aria-keyshortcuts": "e" }, "Edit");
  const cancel = make("button", { type: "button" }, "Cancel");
  const turn = (on) => {
    form.hidden = !on;
    asked.hidden = edit.hidden = on;
    (on ? form.querySelector("textarea") : edit).focus();
  };
  edit.addEventListener("click", () => turn(true));
  cancel.addEventListener("click", () => turn(false));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") turn(false);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.querySelector("button.main").after(" ", cancel);
  form.classList.remove("panel");
  asked.after(form);
  document.querySelector("#q1 .facts").after(edit);
  form.hidden = !details.open;
  asked.hidden = edit.hidden = details.open;
  details.hidden = true;
  return () => turn(true);
}

async function decide(row, action, rest = {}) {
  failure.hidden = true;
  try {
    await marks.decide(row, action, rest);
  } catch (problem) {
    failure.textContent = problem.message;
    failure.hidden = false;
    announce(problem.message);
  }
}

const toggle = (card) => decide(rowOf(card), marks.of(rowOf(card)) ? "undo" : "delete");
const remove = (card) => decide(rowOf(card), marks.of(rowOf(card))?.action === "delete" ? "undo" : "delete");
const relabel = (card, label) => label !== undefined && decide(rowOf(card), "relabel", { label });
const accept = (card) => suggested.has(rowOf(card)) && decide(rowOf(card), "accept", { audit: suggested.get(rowOf(card)).audit });

function show() {
  for (const card of document.querySelectorAll(".card")) {
    const mark = marks.of(rowOf(card));
    card.classList.toggle("marked", mark !== null && mark.action === "delete");
    card.classList.toggle("decided", mark !== null);
    const button = card.querySelector(".mark");
    button.setAttribute("aria-pressed", String(mark !== null));
    button.textContent = mark ? `marked: ${tellMark(mark)}` : "mark";
  }
  const changed = [...marks.known.values()].filter((mark) => mark.status === "accepted" && mark.action !== "keep");
  changed.sort((one, two) => two.version - one.version);
  tray.hidden = !changed.length && !marks.undone.length;
  const at = tray.dataset.rows;
  const links = changed.slice(0, LINKS).map((mark) => {
    const link = make(at ? "a" : "span", { href: at ? at + mark.row : null }, `row ${mark.row.toLocaleString("en")}`);
    link.title = tellMark(mark);
    return link;
  });
  const more = changed.length > LINKS ? [`and ${(changed.length - LINKS).toLocaleString("en")} more`] : [];
  tray.querySelector(".rows").replaceChildren(`${changed.length.toLocaleString("en")} marked`, ...links, ...more);
  tray.querySelector(".undo").disabled = !marks.undone.length;
  estimate(changed.length);
}

// What the marked rows hold of the push of the first answer; an older question in flight is called off.
async function estimate(count) {
  asking?.abort();
  const effect = tray.querySelector(".effect");
  if (!count) {
    effect.textContent = "";
    return;
  }
  asking = new AbortController();
  const asked = new URLSearchParams(location.search);
  const method = asked.get("method");
  for (const name of ["method", "marked"]) asked.delete(name);
  if (method) asked.set("method", method);
  effect.textContent = "Estimating…";
  try {
    const found = await ask(`/api/why/removal?${asked}`, { signal: asking.signal });
    const told = [["toward", found.toward], ["away from", found.away]].filter(([, share]) => share !== null);
    const parts = told.flatMap(([side, share], at) => [at ? " and " : "", make("b", {}, percent(share)), ` of the push ${side}`]);
    const label = make("bdi", {}, document.querySelector(".answers").dataset.label);
    const end = make("span", { class: "more" }, " Without them that much less, to first order: what training would learn from the other rows instead is not in it.");
    effect.replaceChildren(count === 1 ? "It holds " : "They hold ", ...parts, " ", label, ".", end);
  } catch (problem) {
    if (problem.name !== "AbortError") effect.textContent = problem.message;
  }
}

// What audits say of the rows on this page: named on their cards, accepted with "a".
async function suggest() {
  const rows = new URLSearchParams([...new Set([...document.querySelectorAll(".card")].map(rowOf))].map((row) => ["row", row]));
  for (const each of await ask(`/api/suggestions?${rows}`)) {
    if (!suggested.has(each.row)) suggested.set(each.row, each);
  }
  for (const card of document.querySelectorAll(".card")) propose(card);
}
function propose(card) {
  const found = suggested.get(rowOf(card));
  if (!found || card.querySelector(".suggested")) return;
  const told = found.action === "relabel" ? `relabel to ${found.label}` : found.action;
  const button = make("button", { type: "button", class: "suggested", title: `Accept what the audit "${found.audit}" suggests` }, `${found.audit}: ${told}`);
  button.addEventListener("click", () => accept(card));
  card.querySelector(".sum").append(button);
}

if (tray) {
  document.querySelectorAll(".card").forEach(furnish);
  furnishBar();
  const edit = editInPlace();
  marks.changed = show;
  const undo = async () => {
    try {
      await marks.undo();
    } catch (problem) {
      failure.textContent = problem.message;
      failure.hidden = false;
    }
    show();
  };
  tray.querySelector(".undo").addEventListener("click", undo);
  marks.look();
  if (document.querySelector(".card")) Promise.allSettled([suggest(), findHubs()]); // without them the page still explains

  const numbered = Object.fromEntries(labels.slice(0, 9).map((label, at) => [at + 1, () => current && relabel(current, label)]));
  const follow = (selector) => document.querySelector(selector)?.click();
  listenTo({
    ...moves,
    ...numbered,
    l: () => {
      lightAll();
      if (current) open(current);
    },
    e: (event) => {
      event.preventDefault(); // else the field that is opened reads the key
      edit();
    },
    x: () => current && remove(current),
    a: () => current && accept(current),
    q: () => current && decide(rowOf(current), "keep"),
    u: undo,
    o: () => current?.querySelector(".row a")?.click(),
    m: () => {
      const link = current?.querySelector(".row a");
      if (link) location.assign(`${link.href}#mend`);
    },
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
