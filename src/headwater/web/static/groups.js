// The list of groups: keys to walk it, and what other tabs decide.
import { isTyping } from "./frame.js";
import { Marks } from "./marks.js";

const links = [...document.querySelectorAll("a.open")];
addEventListener("keydown", (event) => {
  if (isTyping(event) || (event.key !== "j" && event.key !== "k")) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), links.length - 1)]?.focus();
});

// Counts, precision and totals all come from the server: once something was decided, the page is read again.
new Marks(Number(document.querySelector(".work").dataset.version), async () => {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.status !== 200) return; // 202: it is still being made
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of [".plan", "table.groups tbody", ".bands"]) {
    const fresh = [...found.querySelectorAll(part)];
    document.querySelectorAll(part).forEach((old, index) => fresh[index] && swap(old, fresh[index]));
  }
});

function swap(old, fresh) {
  const focused = [...old.querySelectorAll("a")].indexOf(document.activeElement);
  old.replaceWith(fresh);
  if (focused >= 0) fresh.querySelectorAll("a")[focused]?.focus();
  links.splice(0, links.length, ...document.querySelectorAll("a.open"));
}
