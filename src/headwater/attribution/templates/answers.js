// Answers come alive: hover and pins, sorting, "all", tabs, keys. Without this script a page still reads. Needs words.js.

const aloud = document.querySelector(".aloud");
const tie = document.querySelector(".tie");
const narrow = matchMedia("(max-width: 899.98px)");
const answers = new Map(); // section -> Answer, made when a section comes near

class Answer {
  constructor(section) {
    this.section = section;
    const decimals = Number(section.dataset.d);
    this.print = printer(decimals);
    this.pinned = null;
    const asked = section.querySelector(".asked[data-m]");
    this.query = asked && new Passage(asked, { top: Number(asked.dataset.top), decimals, wordAt: null });
    this.words = new Map(); // a query word's number -> its text
    for (const part of this.query?.parts ?? []) {
      for (const { start, end, marks } of part.places) this.words.set(marks[0].pushes[0].words[0], part.text.slice(start, end));
    }
    const wordAt = (number) => this.words.get(number) ?? "";
    this.settings = { top: Number(section.dataset.top), decimals, wordAt };
    this.cards = [...section.querySelectorAll(".card")].map((card, index) => ({
      card,
      index,
      passage: card.dataset.m ? new Passage(card, this.settings) : null,
    }));
    this.query?.elements.forEach((mark) => mark.classList.contains("weak") || mark.setAttribute("tabindex", "0"));
    for (const entry of this.cards) this.furnish(entry);
    this.bar = make("p", { class: "pinned", hidden: "" });
    section.querySelector(".ask").append(this.bar);
    this.addTabs();
    this.listen();
  }

  furnish({ card, passage }) {
    card.tabIndex = 0;
    card.setAttribute("aria-label", card.querySelector("header").textContent.replace(/\s+/g, " ").trim());
    const unlit = passage?.marks.filter((mark) => !mark.lit && mark.spans.length).length ?? 0;
    if (unlit || card.querySelector(".t details")) {
      const kept = passage?.marks.length;
      const label = !passage ? "unfold" : kept === passage.all ? `all ${kept}` : `${kept} of ${passage.all}`;
      const title = passage ? `Light ${label} words that this row shares with the query` : "Show the whole text";
      const button = make("button", { type: "button", "aria-pressed": "false", class: "more", title }, label);
      button.addEventListener("click", () => this.toggleAll(card));
      card.querySelector(".sum").append(button);
    }
  }

  // A card that was taken apart anew stands where the old one stood, on the scale of the others.
  swap(card, fresh) {
    const entry = this.cards.find((each) => each.card === card);
    const focused = card.contains(document.activeElement);
    card.replaceWith(fresh);
    entry.card = fresh;
    entry.passage = new Passage(fresh, this.settings);
    for (const part of entry.passage.parts) part.tones.clear();
    const word = this.pinned;
    entry.passage.draw(word === null ? new Set() : new Set([word]));
    this.furnish(entry);
    if (word !== null) {
      entry.push = entry.passage.marks.reduce((sum, mark) => sum + pushThrough(mark, word), 0);
      this.trace(null);
      this.number();
    }
    if (card === current) setCurrent(fresh);
    if (focused) fresh.focus({ preventScroll: true });
  }

  toggleAll(card, on = !card.classList.contains("all")) {
    card.classList.toggle("all", on);
    card.querySelector(".more")?.setAttribute("aria-pressed", String(on));
    card.querySelectorAll(".t details").forEach((gap) => (gap.open = on));
  }

  addTabs() {
    const lists = this.section.querySelector(".lists");
    if (!lists) return;
    const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Rows by direction" });
    for (const side of ["toward", "away"]) {
      const list = lists.querySelector(`.${side}`);
      const tab = make("button", { type: "button", role: "tab", "data-side": side, "aria-controls": list.id });
      tab.append(list.getAttribute("aria-label"), ` (${list.querySelectorAll(".card").length})`);
      tab.addEventListener("click", () => this.show(side));
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        this.show(side === "toward" ? "away" : "toward");
        tabs.querySelector("[aria-selected=true]").focus();
        event.stopPropagation();
      });
      tabs.append(tab);
    }
    lists.before(tabs);
    this.tabs = tabs;
    this.lists = lists;
    this.show("toward");
  }

  show(side) {
    this.lists.dataset.tab = side;
    for (const tab of this.tabs.children) {
      const chosen = tab.dataset.side === side;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    drawTie();
  }

  listen() {
    const { section } = this;
    const wordsOf = (target) => {
      const mark = target.closest?.(".t u");
      return mark?.place ? new Set(mark.place.marks.flatMap(traced)) : null;
    };
    for (const [enter, leave] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
      section.addEventListener(enter, (event) => {
        const words = wordsOf(event.target);
        if (words) this.trace(words, event.target.closest("u"));
        if (enter === "focusin") setCurrent(event.target.closest(".card"));
      });
      section.addEventListener(leave, (event) => wordsOf(event.target) && this.trace(null));
    }
    section.addEventListener("click", (event) => {
      const mark = event.target.closest(".t u");
      if (mark?.place) this.pin(this.strongestPartner(mark.place), mark);
      else if (!event.target.closest("a, button, summary")) setCurrent(event.target.closest(".card"));
    });
  }

  strongestPartner(place) {
    const pairs = place.marks.flatMap((mark) => mark.pushes).filter((pair) => pair.words.length);
    return pairs.length ? strongest(pairs).words[0] : null;
  }

  // Outline the partners of query words everywhere and dim the rest; null goes back to the pinned word, if any.
  trace(words, from = null) {
    const these = words ?? (this.pinned === null ? null : new Set([this.pinned]));
    this.section.classList.toggle("tracing", these !== null);
    const partner = (mark) => mark === from || (these !== null && mark.place.marks.some((m) => meets(m, these)));
    this.query?.elements.forEach((mark) => mark.classList.toggle("on", partner(mark)));
    for (const { card, passage } of this.cards) {
      let any = false;
      for (const mark of passage?.elements ?? []) {
        const on = partner(mark);
        mark.classList.toggle("on", on);
        any ||= on;
      }
      card.classList.toggle("off", these !== null && !any);
      for (const gap of card.querySelectorAll(".t details")) gap.classList.toggle("holds", gap.querySelector("u.on") !== null);
    }
  }

  // Pin a query word: number its partners, sort the rows by it. Pinning it again lets go.
  pin(word, from = null) {
    if (word === null || this.cards.every(({ passage }) => !passage)) return;
    const again = word === this.pinned;
    const inCard = from?.closest(".card");
    this.pinned = again ? null : word;
    const shown = new Set(again ? [] : [word]);
    for (const entry of this.cards) {
      entry.passage?.draw(shown);
      entry.push = entry.passage?.marks.reduce((sum, mark) => sum + pushThrough(mark, word), 0) ?? 0;
      entry.partner = entry.passage?.marks.some((mark) => meets(mark, shown)) ?? false;
    }
    this.sort();
    this.trace(null);
    this.number();
    this.report(word);
    for (const mark of this.query.elements) {
      const pressed = this.pinned !== null && mark.place.marks.some((m) => meets(m, shown));
      mark.setAttribute("aria-pressed", String(pressed));
    }
    if (inCard) {
      inCard.querySelector("u.on")?.focus({ preventScroll: true });
      setCurrent(inCard);
    } else if (!again) {
      setCurrent(this.visibleCards()[0] ?? null);
    }
    drawTie();
    setHash(again ? this.section.id : `${this.section.id}w${word}`);
    this.section.dispatchEvent(new CustomEvent("pinned", { bubbles: true, detail: this.pinned }));
  }

  sort() {
    const pinned = this.pinned !== null;
    for (const list of this.section.querySelectorAll(".list")) {
      const sign = list.classList.contains("away") ? -1 : 1;
      const here = this.cards.filter(({ card }) => list.contains(card));
      const key = (entry) => (pinned && entry.partner ? sign * entry.push : -Infinity);
      here.sort((a, b) => (key(a) === key(b) ? a.index - b.index : key(b) - key(a)));
      list.querySelector("ol")?.append(...here.map(({ card }) => card));
    }
  }

  number() {
    let count = 0;
    const told = new Set();
    for (const mark of this.section.querySelectorAll(".card .t u")) {
      const partner = this.pinned !== null && mark.place.marks.find((m) => meets(m, new Set([this.pinned])));
      if (partner && !told.has(partner)) mark.dataset.k = ++count;
      else delete mark.dataset.k;
      told.add(partner);
    }
  }

  report(word) {
    this.bar.hidden = this.pinned === null;
    this.bar.replaceChildren();
    if (this.pinned === null) {
      aloud.textContent = "Let go.";
      return;
    }
    const said = (side, way) => {
      const rows = this.cards.filter(({ partner, card }) => partner && card.closest(`.${side}`));
      const sum = rows.reduce((total, { push }) => total + push, 0);
      if (!rows.length) return `no row pushing ${way}`;
      return `${this.print(sum)} in ${rows.length} row${rows.length === 1 ? "" : "s"} pushing ${way}`;
    };
    const parts = [said("toward", "toward"), said("away", "away")];
    const button = make("button", { type: "button" }, "let go");
    button.addEventListener("click", () => this.pin(word));
    const name = make("b", {}, make("bdi", {}, this.words.get(word) ?? ""));
    this.bar.append(make("span", {}, name, " pinned"), ...parts.map((part) => make("span", {}, part)), button);
    aloud.textContent = `${this.words.get(word)} pinned: ${parts.join("; ")}.`;
  }

  visibleCards() {
    return [...this.section.querySelectorAll(".card")].filter((card) => card.offsetParent);
  }
}

const answerOf = (section) => {
  if (!answers.has(section)) answers.set(section, new Answer(section));
  return answers.get(section);
};
const sections = () => [...document.querySelectorAll(".query:not([hidden])")];
const setHash = (hash) => history.replaceState(null, "", `#${hash}`);

let current = null;
const setCurrent = (card) => {
  if (card === current || (!card && current?.contains(document.activeElement))) return;
  current?.classList.remove("current");
  current = card;
  current?.classList.add("current");
  drawTie();
};

// The one connector: from the pinned word to the current card.
const drawTie = () => {
  const answer = current && answers.get(current.closest(".query"));
  const pinned = answer?.pinned != null && answer.section.querySelector(".asked u[aria-pressed=true]");
  const partner = pinned && current.querySelector(".t u[data-k]");
  const [from, to] = [pinned, partner].map((mark) => mark && mark.getClientRects()[0]);
  const below = from && to && to.top > answer.section.querySelector(".ask").getBoundingClientRect().bottom;
  tie.style.display = below && to.top < innerHeight ? "block" : "none";
  if (!below) return;
  const [x1, y1, x2, y2] = [from.left + from.width / 2, from.bottom + 5, to.left + to.width / 2, to.top - 4];
  const bend = Math.max(24, (y2 - y1) / 2);
  tie.firstElementChild.setAttribute("d", `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`);
};
addEventListener("scroll", () => requestAnimationFrame(drawTie), { passive: true, capture: true });
addEventListener("resize", drawTie);

const here = () => {
  const focused = document.activeElement.closest(".query:not([hidden])");
  return focused ?? sections().findLast((section) => section.getBoundingClientRect().top < 80) ?? sections()[0];
};
const step = (by) => {
  const all = sections();
  const next = all[all.indexOf(here()) + by];
  if (!next) return;
  setHash(next.id);
  next.scrollIntoView();
  next.querySelector("h2").focus({ preventScroll: true });
};
const walk = (by) => {
  let answer = here() && answerOf(here());
  if (!answer) return;
  const reach = () => (narrow.matches ? answer.visibleCards() : [...answer.section.querySelectorAll(".card")]);
  let cards = reach();
  let at = cards.indexOf(current) + (cards.includes(current) ? by : by > 0 ? 1 : 0);
  if (narrow.matches && (at < 0 || at >= cards.length) && answer.lists?.dataset.tab === (by > 0 ? "toward" : "away")) {
    answer.show(by > 0 ? "away" : "toward");
    cards = reach();
    at = by > 0 ? 0 : cards.length - 1;
  }
  const card = cards[at];
  if (!card) return;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
};
const walkWords = (by) => {
  const home = document.activeElement.closest(".card, .asked");
  const marks = [...(home?.querySelectorAll(".t u[role]") ?? [])].filter(
    (mark) => mark.offsetParent && (!mark.classList.contains("weak") || home.classList.contains("all")),
  );
  const at = marks.indexOf(document.activeElement);
  marks[at < 0 ? (by > 0 ? 0 : marks.length - 1) : at + by]?.focus();
};

const letGo = () => {
  for (const answer of answers.values()) if (answer.pinned !== null) answer.pin(answer.pinned);
};
const lightAll = () => current && answers.get(current.closest(".query"))?.toggleAll(current);
const moves = {
  j: () => walk(1),
  k: () => walk(-1),
  Escape: letGo,
  ArrowRight: () => walkWords(1),
  ArrowLeft: () => walkWords(-1),
};
const dialog = document.querySelector(".keys");
const listenTo = (keys) => addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select")) return;
  const mark = event.target.closest(".t u[role]");
  if (mark && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    mark.click();
  } else if (Object.hasOwn(keys, event.key)) {
    if (event.key.startsWith("Arrow") && !event.target.closest(".card, .asked")) return;
    keys[event.key](event);
  }
});

const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) answerOf(target), near.unobserve(target);
  },
  { rootMargin: "600px" },
);
const heights = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.parentNode.style.setProperty("--ask", `${target.offsetHeight}px`);
  }
});
for (const section of document.querySelectorAll(".query")) {
  near.observe(section);
  heights.observe(section.querySelector(".ask"));
}
addEventListener("beforeprint", () => document.querySelectorAll(".lists").forEach((lists) => lists.removeAttribute("data-tab")));

// A shared address may name a pinned word: #q2w5.
const shared = location.hash.match(/^#(q\d+)w(\d+)$/);
const target = shared && document.getElementById(shared[1]);
if (target) {
  target.scrollIntoView();
  answerOf(target).pin(Number(shared[2]));
}
