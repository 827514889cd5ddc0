// Jobs: the cost first, then the start; the list follows what the server knows.
import { announce, ask, drawnAnew } from "./frame.js";

const EVERY = 1500; // milliseconds between two looks while a job is at work
const failure = document.querySelector(".failure");
const form = document.querySelector("form.new");
const cost = form.querySelector(".cost");
const start = form.querySelector("[type=submit]");

const told = (seconds) =>
  seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

function wanted() {
  const body = { kind: form.dataset.kind };
  for (const [name, value] of new FormData(form)) {
    if (value === "") continue;
    body[name] = name === "seeds" || name === "budget" ? Number(value) : name === "methods" ? [value] : name === "rows" ? [Number(value)] : value;
  }
  if (body.what !== "sources") delete body.column;
  return body;
}

async function tryTo(what) {
  failure.hidden = true;
  try {
    return await what();
  } catch (problem) {
    failure.textContent = problem.message;
    failure.hidden = false;
    return null;
  }
}

form.querySelector(".ask-cost")?.addEventListener("click", async () => {
  cost.textContent = "Timing a few steps…";
  const found = await tryTo(() => ask("/api/jobs/cost", { method: "POST", body: wanted() }));
  cost.textContent = "";
  if (!found) return;
  const time = found.seconds !== null ? `about ${told(found.seconds)}` : found.most !== null ? `at most ${told(found.most)}` : "";
  cost.textContent = `It will ${found.does}${time ? `: ${time}` : ""}.`.replace("It will nothing", "Nothing");
  if (form.dataset.kind === "fix") cost.textContent = `${found.does}: ${time}.`;
  start.hidden = false;
  start.focus();
});
const what = form.elements.what;
const column = form.querySelector(".of-sources");
const askColumn = () => column && (column.hidden = what.value !== "sources");
askColumn();
form.addEventListener("input", () => {
  askColumn();
  if (start) start.hidden = true;
  if (cost) cost.textContent = "";
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!start || start.hidden) return;
  start.hidden = true; // a second press would start a second job
  const job = await tryTo(() => ask("/api/jobs", { method: "POST", body: wanted() }));
  if (!job) {
    start.hidden = false;
    return start.focus();
  }
  announce(`Job ${job.number} started.`);
  cost.textContent = "";
  await look();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".cancel");
  if (!button) return;
  button.disabled = true;
  await tryTo(() => ask(`/api/jobs/${button.closest(".job").dataset.number}/cancel`, { method: "POST" }));
  await look();
});

// The server draws the list; it is read again while something moves, and where the last look failed.
let latest = 0;
let looking = 0; // looks in flight
let failed = false;
async function look() {
  const mine = ++latest;
  looking += 1;
  const found = await drawnAnew().catch(() => null);
  looking -= 1;
  if (mine !== latest) return; // a later look shows the later state
  failed = !found;
  if (found) draw(found.querySelector(".list"));
}

// What is focused or unfolded stays so.
function draw(list) {
  const before = document.querySelector(".list");
  for (const fresh of list.querySelectorAll(".job")) {
    const old = before.querySelector(`.job[data-number="${fresh.dataset.number}"]`);
    if (!old) continue;
    if (old.dataset.state !== fresh.dataset.state) announce(`Job ${fresh.dataset.number}: ${fresh.dataset.state}.`);
    const details = fresh.querySelector("details");
    if (details && old.querySelector("details")?.open) details.open = true;
    if (old.contains(document.activeElement) && old.dataset.state === fresh.dataset.state) fresh.replaceWith(old);
  }
  before.replaceWith(list);
}
const moves = () => document.querySelector('.job:is([data-state="queued"], [data-state="running"])');
setInterval(() => !document.hidden && !looking && (failed || moves()) && look(), EVERY);
