// A training row's own page: decide on it, by mouse or keyboard.
import { isTyping } from "./frame.js";
import { Marks, tell } from "./marks.js";

const marking = document.querySelector(".marking");
const failure = document.querySelector(".failure");
const row = Number(marking.dataset.row);
const marks = new Marks(0, show);

function show() {
  const mark = marks.of(row);
  marking.querySelector(".state").textContent = mark ? `marked: ${tell(mark)}` : "";
  marking.querySelector("[data-act=undo]").disabled = !mark;
  for (const button of marking.querySelectorAll("[data-act]:not([data-act=undo])")) {
    const { act, to } = button.dataset;
    button.setAttribute("aria-pressed", String(mark?.action === act && (act !== "relabel" || mark.label === to)));
  }
}

async function decide({ act, to }) {
  failure.hidden = true;
  try {
    await marks.decide(row, act, { label: to });
  } catch (problem) {
    failure.textContent = problem.message;
    failure.hidden = false;
  }
}

for (const button of marking.querySelectorAll("[data-act]")) button.addEventListener("click", () => decide(button.dataset));
addEventListener("keydown", (event) => {
  if (isTyping(event) || document.querySelector("dialog[open]")) return;
  const button = marking.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]:not(:disabled)`);
  if (button) decide(button.dataset);
});
await marks.look();
show();
marking.hidden = false;
