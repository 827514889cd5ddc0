// The list of groups: keys to walk it, and what other tabs decide.
import { drawnAnew, isTyping } from "./frame.js";
import { Marks } from "./marks.js";

const links = [...document.querySelectorAll("a.open")];
addEventListener("keydown", (event) => {
  if (isTyping(event) || (event.key !== "j" && event.key !== "k")) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), links.length - 1)]?.focus();
});

// Counts, precision and totals all come from the server: once something was decided, the page is read again.
const AGAIN = 2000; // milliseconds after which one that could not be read is tried again
let latest = 0;
async function look() {
  const mine = ++latest;
  const found = await drawnAnew().catch(() => null);
  if (mine !== latest) return; // a later look shows the later state
  if (!found) return setTimeout(() => mine === latest && look(), AGAIN);
  for (const part of [".plan", "table.groups tbody", ".bands"]) {
    const fresh = [...found.querySelectorAll(part)];
    document.querySelectorAll(part).forEach((old, index) => fresh[index] && swap(old, fresh[index]));
  }
}
new Marks(Number(document.querySelector(".work").dataset.version), look);

function swap(old, fresh) {
  const focused = [...old.querySelectorAll("a")].indexOf(document.activeElement);
  old.replaceWith(fresh);
  if (focused >= 0) fresh.querySelectorAll("a")[focused]?.focus();
  links.splice(0, links.length, ...document.querySelectorAll("a.open"));
}
