// A group of suggestions: decide row by row, by mouse or keyboard; accept the rest once the sample was looked at.
import { ask, isTyping } from "./frame.js";
import { Marks, tell } from "./marks.js";

const work = document.querySelector(".work");
const { audit, group, band } = work.dataset;
const failure = document.querySelector(".failure");
const cards = [...document.querySelectorAll(".card")];
const byRow = new Map(cards.map((card) => [Number(card.dataset.row), card]));
const marks = new Marks(0, show);
let current = null;

const percent = (share) => `${Math.round(100 * share)}%`;

function show(fresh) {
  for (const mark of fresh) {
    const card = byRow.get(mark.row);
    if (!card) continue;
    const decided = mark.status !== "suggested";
    card.dataset.decided = !decided ? "" : mark.action === "keep" || mark.status === "rejected" ? "kept" : "changed";
    card.querySelector(".state").textContent = decided ? tell(mark) : "";
    for (const button of card.querySelectorAll("[data-act]")) {
      const { act, to } = button.dataset;
      const same = act === "relabel" ? mark.action === "relabel" && mark.label === to : act === mark.action;
      if (act !== "undo" && act !== "accept") button.setAttribute("aria-pressed", String(decided && same));
      if (act === "accept") {
        const suggested = mark.action === card.dataset.suggested && (mark.label ?? "") === card.dataset.label;
        button.setAttribute("aria-pressed", String(decided && mark.status === "accepted" && suggested));
      }
    }
  }
  count();
}

// What the sample says now: the server counts, since other tabs decide too.
let counting = null;
async function count() {
  counting?.abort();
  counting = new AbortController();
  try {
    const asked = new URLSearchParams({ audit, group, band, rows: "sample" });
    const found = await ask(`/api/worklist/group?${asked}`, { signal: counting.signal });
    const { sample, size, decided } = found;
    document.querySelector(".decided").textContent = `${decided.toLocaleString("en")} decided`;
    document.querySelector(".told").textContent = sample.reviewed
      ? `${sample.reviewed} of ${sample.size} sampled rows looked at: ${sample.right} wrong indeed (${percent(sample.low)} to ${percent(sample.high)}).`
      : `Look at ${sample.size} ${sample.size === 1 ? "row" : "rows"} drawn at random; then the group can be accepted as a whole.`;
    const rest = document.querySelector(".rest");
    if (!rest) return;
    rest.textContent = (size - decided).toLocaleString("en");
    document.querySelector(".accept-group").disabled = sample.reviewed < sample.size || decided === size;
  } catch (problem) {
    if (problem.name !== "AbortError") complain(problem);
  }
}

function complain(problem) {
  failure.textContent = problem.message;
  failure.hidden = false;
}

async function act(card, name, label) {
  failure.hidden = true;
  const row = Number(card.dataset.row);
  const of = audit === "by hand" ? undefined : audit;
  try {
    if (name === "undo") await (marks.of(row) && marks.decide(row, "undo", { audit: of }));
    else await marks.decide(row, name, { label, audit: of });
    return true;
  } catch (problem) {
    complain(problem);
    return false;
  }
}

function go(card) {
  if (!card) return;
  current?.classList.remove("current");
  current = card;
  card.classList.add("current");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

const walk = (by) => go(cards[Math.min(Math.max(cards.indexOf(current) + by, 0), cards.length - 1)]);
const decide = async (name, label) => {
  const card = current;
  if (card && (await act(card, name, label)) && current === card) walk(1);
};

async function acceptRest() {
  const button = document.querySelector(".accept-group");
  if (!button || button.disabled) return;
  failure.hidden = true;
  try {
    await ask("/api/worklist/accept", { method: "POST", body: { audit, group } });
    await marks.look();
  } catch (problem) {
    complain(problem);
  }
}

for (const card of cards) {
  card.addEventListener("focusin", () => card !== current && go(card));
  for (const button of card.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => act(card, button.dataset.act, button.dataset.to));
  }
  if (!card.dataset.suggested || audit === "by hand") card.querySelector("[data-act=accept]").hidden = true;
}
document.querySelector(".accept-group")?.addEventListener("click", acceptRest);

const keys = {
  j: () => walk(1),
  k: () => walk(-1),
  a: () => decide("accept"),
  q: () => decide("keep"),
  x: () => decide("delete"),
  m: () => current?.querySelector("a.mend")?.click(),
  A: acceptRest,
  u: async () => {
    try {
      const row = await marks.undo();
      if (row !== null) go(byRow.get(row));
    } catch (problem) {
      complain(problem);
    }
  },
};
addEventListener("keydown", (event) => {
  if (isTyping(event) || document.querySelector("dialog[open]")) return;
  if (Object.hasOwn(keys, event.key)) keys[event.key]();
  const label = current?.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"][data-act=relabel]`);
  if (label) decide("relabel", label.dataset.to);
});
marks.look();
