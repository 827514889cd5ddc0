// What every page has: the theme, the list of keys, announcements, and a way to ask the API that shows failures.

const root = document.documentElement;

document.querySelector(".theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("headwater-theme", root.dataset.theme);
});

const keys = document.querySelector("dialog.keys");
const help = document.querySelector(".help");
help.hidden = keys.querySelectorAll("dl > div").length < 2;
help.addEventListener("click", () => keys.showModal());

/** Whether a key press belongs to a text field or to a shortcut of the browser. */
export function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !isTyping(event) && !help.hidden) keys.showModal();
});

/** Tell screen readers something. */
export function announce(text) {
  document.querySelector(".aloud").textContent = text;
}

/** An answer that is no success: its status, and what the server said. */
export class Failure extends Error {
  constructor(status, body) {
    super(body.error ?? `The server answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

const LOOKS = 300; // milliseconds between two looks at how far a request is

/** What is being done for a request, in words: its place in the line, or the stage that the worker is at. */
export function stageOf({ state, before, stage }) {
  if (state === "waiting") return before ? `Waiting: ${before} ${before === 1 ? "question is" : "questions are"} before this one` : "Next in line";
  if (!stage) return "At work";
  const { title, done, total, unit } = stage;
  const far = total ? ` (${done.toLocaleString("en")} of ${total.toLocaleString("en")} ${unit})` : "";
  return title[0].toUpperCase() + title.slice(1) + far;
}

/** Tell how far a request is, until it is over. Throws a Failure where it failed, or the server is gone. */
export async function follow(name, tell, signal) {
  while (!signal?.aborted) {
    const found = await ask(`/api/work/${name}`, { signal });
    if (found.state === "done" || found.state === "unknown") return;
    tell(found);
    await new Promise((resolve) => setTimeout(resolve, LOOKS));
  }
}

// Follow a request that is asked elsewhere: once it is slow, and until it is answered, whatever that says.
function watching(tell, headers) {
  const over = new AbortController();
  headers["Headwater-Watch"] = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  const told = (found) => over.signal.aborted || tell(found);
  setTimeout(() => over.signal.aborted || follow(headers["Headwater-Watch"], told, over.signal).catch(() => {}), LOOKS);
  return () => over.abort();
}

/** Ask the API. `body` is sent as JSON; `tell` hears how far it is. Throws a Failure that may be shown as it is. */
export async function ask(path, { method = "GET", body, signal, tell } = {}) {
  const options = { method, signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const over = tell ? watching(tell, options.headers) : () => {};
  try {
    return await answered(path, options);
  } finally {
    over();
  }
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, { error: "The server does not answer. Is `headwater serve` still running?" });
  }
  const type = response.headers.get("Content-Type") ?? "";
  const found = type.includes("json") ? await response.json() : { text: await response.text() };
  if (!response.ok) throw new Failure(response.status, found);
  return found.text ?? found;
}

/** This page as the server draws it by now: scripts wait for it however long it takes. Throws a Failure. */
export async function drawnAnew() {
  return new DOMParser().parseFromString(await ask(location.href), "text/html");
}

/** Make an element. Text is always text: nothing here reads HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
