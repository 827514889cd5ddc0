// The page of a report: theme, the list of queries, the list of keys. Needs answers.js.

const root = document.documentElement;
const themeButton = document.querySelector(".theme");
const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const setTheme = (theme) => {
  root.dataset.theme = theme;
  themeButton.textContent = dark() ? "Light" : "Dark";
};
const keys = {
  ...moves,
  n: () => step(1),
  p: () => step(-1),
  a: lightAll,
  t: () => setTheme(dark() ? "light" : "dark"),
  "?": () => dialog.showModal(),
};
listenTo(keys);

// Set up what the page showed without script.
setTheme(dark() ? "dark" : "light");
delete root.dataset.theme; // until somebody chooses, the system's wish holds
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (themeButton.textContent = dark() ? "Light" : "Dark"));
themeButton.hidden = document.querySelector(".help").hidden = false;
themeButton.addEventListener("click", keys.t);
document.querySelector(".help").addEventListener("click", keys["?"]);
dialog.querySelector("button").addEventListener("click", () => dialog.close());

const only = document.querySelector(".only");
if (only) {
  only.hidden = false;
  only.firstElementChild.addEventListener("change", (event) => {
    for (const section of document.querySelectorAll(".query")) {
      const hide = event.target.checked && !("differs" in section.dataset);
      section.hidden = hide;
      document.querySelector(`.rail a[href="#${section.id}"]`).parentNode.hidden = hide;
    }
  });
}

// Scroll a box, and never the page around it, so that an element of it can be seen.
const showIn = (box, element) => {
  const [outer, inner] = [box.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top) box.scrollTop += inner.top - outer.top;
  else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
};
const links = new Map([...document.querySelectorAll(".rail ol a")].map((link) => [link.hash.slice(1), link]));
const inView = new IntersectionObserver(
  () => {
    const id = sections().findLast((section) => section.getBoundingClientRect().top < innerHeight * 0.4)?.id;
    for (const [key, link] of links) {
      if (key !== id) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        showIn(link.closest("ol"), link);
        showIn(link.closest(".rail"), link);
      }
    }
  },
  { threshold: [0, 0.05, 0.1, 0.25], rootMargin: "0px 0px -60% 0px" },
);
for (const section of document.querySelectorAll(".query")) {
  inView.observe(section);
}
