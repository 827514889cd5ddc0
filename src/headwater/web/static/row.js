// A training row's own page: decide on it, by mouse or keyboard; mend its words.
import { ask, isTyping } from "./frame.js";
import { Marks, tell, wordsOf } from "./marks.js";

const marking = document.querySelector(".marking");
const failure = document.querySelector(".failure");
const changed = document.querySelector(".changed");
const mend = document.querySelector(".mend");
const fields = [...document.querySelectorAll(".mend textarea")];
const row = Number(marking.dataset.row);
const marks = new Marks(0, show);
let typed = false; // what somebody is typing is not written over

function show() {
  const mark = marks.of(row);
  marking.querySelector(".state").textContent = mark ? `marked: ${tell(mark)}` : "";
  marking.querySelector("[data-act=undo]").disabled = !mark;
  for (const button of marking.querySelectorAll("[data-act]:not([data-act=undo])")) {
    const { act, to } = button.dataset;
    button.setAttribute("aria-pressed", String(mark?.action === act && (act !== "relabel" || mark.label === to)));
  }
  if (!typed) fill(mark);
  showWords(mark);
}

/** Put the words that the mark says into the form; without one, those of the corpus. */
function fill(mark) {
  for (const field of fields) {
    const { action, column } = field.dataset;
    const mended = action === "relabel" && mark?.action === "relabel" ? mark.label : mark?.fields?.[column];
    field.value = mended ?? field.defaultValue;
  }
}

async function showWords(mark) {
  const mended = mark && (mark.fields || (mark.action === "relabel" && fields.some((field) => field.dataset.action === "relabel")));
  if (!mended) return changed.replaceChildren(), (changed.hidden = true);
  try {
    const found = await ask(`/api/marks/${row}`);
    if (found.mark?.version !== marks.of(row)?.version) return; // a later look shows the later one
    changed.replaceChildren(...wordsOf(found.words));
    changed.hidden = !changed.childElementCount;
  } catch (problem) {
    complain(problem);
  }
}

function complain(problem) {
  failure.textContent = problem.message;
  failure.hidden = false;
}

async function decide(act, rest) {
  failure.hidden = true;
  try {
    await marks.decide(row, act, rest);
    return true;
  } catch (problem) {
    complain(problem);
    return false;
  }
}

/** A completion alone is a new label; with other texts, or without it, an edit. */
async function save() {
  const other = fields.filter((field) => field.value !== field.defaultValue);
  const sent = other.length ? other : fields; // where nothing is new, the server says so
  const done = sent.every((field) => field.dataset.action === "relabel")
    ? decide("relabel", { label: sent[0].value })
    : decide("edit", { fields: Object.fromEntries(sent.map((field) => [field.dataset.column, field.value])) });
  if (!(await done)) return;
  typed = false;
  show();
}

function open() {
  if (!mend) return;
  mend.open = true;
  const last = fields.at(-1);
  last.focus();
  last.setSelectionRange(last.value.length, last.value.length);
}

for (const button of marking.querySelectorAll("[data-act]")) button.addEventListener("click", () => decide(button.dataset.act, { label: button.dataset.to }));
addEventListener("keydown", (event) => {
  if (isTyping(event) || document.querySelector("dialog[open]")) return;
  if (event.key === "m" && mend) {
    event.preventDefault();
    return open();
  }
  const button = marking.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]:not(:disabled)`);
  if (button) decide(button.dataset.act, { label: button.dataset.to });
});
if (mend) {
  const form = mend.querySelector("form");
  form.addEventListener("input", () => (typed = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  form.addEventListener("reset", () => (typed = true));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
await marks.look();
show();
marking.hidden = false;
if (mend) mend.hidden = false;
if (location.hash === "#mend") open();
