// A page that is still being made: tells the stage, and fetches the page when it is there. A failure is shown instead.
import { ask, follow, stageOf } from "./frame.js";

const waiting = document.querySelector(".waiting");
const bar = waiting.querySelector("progress");
const told = waiting.querySelector(".told");

function show(found) {
  const text = stageOf(found);
  if (text !== told.textContent) told.textContent = text;
  waiting.querySelector(".elapsed").textContent = `${found.seconds.toFixed(0)} s`;
  const { done, total } = found.stage ?? {};
  bar.hidden = !total;
  if (total) Object.assign(bar, { max: total, value: done });
}

async function come() {
  try {
    const name = waiting.dataset.watch;
    await follow(name, show);
    location.replace(`${location.pathname}${location.search}${location.search ? "&" : "?"}watch=${name}${location.hash}`);
  } catch (problem) {
    const failure = waiting.querySelector(".failure");
    failure.textContent = problem.message;
    failure.hidden = false;
    waiting.querySelector(".again").hidden = false;
    for (const part of waiting.querySelectorAll(".stage, .hint, .ghost")) part.hidden = true;
    waiting.removeAttribute("aria-busy");
  }
}
// The link alone would let go of what stands behind the "#", or, with it, lead nowhere.
waiting.querySelector(".again a").addEventListener("click", (event) => {
  event.preventDefault();
  location.reload();
});
come();
