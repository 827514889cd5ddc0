// The marks of a text: reading them from their attribute (see pack.py), and drawing a text with them.
"use strict";

const AROUND = 3; // words kept in view on either side of a word
const UNSEEN = /[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g;

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

const strongest = (pairs) =>
  pairs.reduce((best, next) => (Math.abs(next.push) > Math.abs(best.push) ? next : best), { words: [], push: 0 });

const named = (mark) => mark.pushes.filter((pair) => pair.words.length);

// "5/60;9g,c.4:7=1e;1o.3:2.9=-c|4=3~1z" -> {all: 60, marks: [{lit, spans: [[start, length]], pushes: [{words, push}], push, tie, via, ...}]}
const number = (digits) => parseInt(digits, 36);
const unpack = (packed, decimals) => {
  const scored = (digits) => number(digits) / 10 ** (decimals + 1);
  const [counts, ...marks] = packed.split(";");
  const [lit, all] = counts.split("/").map(Number);
  const read = (mark, index) => {
    const [places, rest] = mark.split(":");
    const [told, loose] = rest.split("*");
    const [before, via] = told.split("^");
    const [pairs, tie] = before.split("~");
    const spans = [];
    for (const place of places ? places.split(",") : []) {
      const [step, length] = place.split(".");
      const [start, long] = spans.at(-1) ?? [0, 5];
      spans.push([start + number(step), length ? number(length) : long]);
    }
    const pushes = [];
    for (const pair of pairs.split("|")) {
      const [words, score] = pair.split("=");
      const push = score ? scored(score) : pushes.at(-1).push;
      pushes.push({ words: words ? words.split(".").map(number) : [], push });
    }
    const push = pushes.reduce((sum, pair) => sum + pair.push, 0);
    return {
      lit: index < lit,
      spans,
      pushes,
      push,
      tie: tie ? number(tie) : null,
      via: via ? decodeURIComponent(via) : "",
      loose: loose !== undefined,
      crossed: loose === "1",
      least: 0,
    };
  };
  const found = marks.map(read);
  // Where every word meets every other, partners are pairs of at least a quarter of the text's strongest.
  const loose = found.filter((mark) => mark.loose);
  const bar = Math.abs(strongest(loose.flatMap(named)).push) / 4;
  for (const mark of loose) mark.least = bar;
  return { all, marks: found };
};

const pushThrough = (mark, word) =>
  mark.pushes.reduce((sum, pair) => sum + (pair.words.includes(word) ? pair.push : 0), 0);

const partners = (mark) => named(mark).filter((pair) => Math.abs(pair.push) >= mark.least).flatMap((pair) => pair.words);

const meets = (mark, words) => partners(mark).some((word) => words.has(word));

// Whom to trace from a mark: its partners, or the strongest word that a weak mark meets.
const traced = (mark) => {
  const found = partners(mark);
  return found.length ? found : strongest(named(mark)).words;
};

const printer = (decimals) => (score) => {
  const places = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const digits = Math.abs(score).toLocaleString("en", places);
  return (/[1-9]/.test(digits) ? (score < 0 ? "−" : "+") : "") + digits;
};

const toneOf = (push, top) => {
  const ratio = top ? Math.abs(push) / top : 0;
  return (push < 0 ? "n" : "p") + (1 + (ratio >= 1 / 8) + (ratio >= 1 / 4) + (ratio >= 1 / 2));
};

// A drawn text as it was written: the text of each part, and what of it is folded.
const readPart = (element) => {
  let text = "";
  const gaps = [];
  const tones = new Map(); // where a word is lit -> its class
  for (const node of element.childNodes) {
    const start = text.length;
    if (node.nodeName === "U") tones.set(start, node.className || "p1");
    if (node.nodeName === "DETAILS") {
      text += node.textContent.slice(node.firstChild.textContent.length);
      gaps.push({ start, end: text.length, label: node.firstChild.textContent, open: node.open });
    } else if (node.nodeName === "A") {
      const source = document.getElementById(node.hash.slice(1));
      const part = [...element.parentNode.querySelectorAll(".t")].indexOf(element);
      text += readPart(source.querySelectorAll(".t")[part]).text.slice(start, start + Number(node.dataset.n));
      gaps.push({ start, end: text.length, label: node.textContent, open: false });
      node.nextSibling?.remove(); // the space after a link stands in for the one that its gap ends with
    } else {
      text += node.textContent;
    }
  }
  return { element, text, gaps, tones };
};

// Places of one part: disjoint, in order. Lit marks speak for a place that they share with unlit ones.
const placesOf = (marks, base, length) => {
  const at = new Map();
  for (const mark of marks) {
    for (const [start, size] of mark.spans) {
      if (start >= base && start + size <= base + length) {
        const key = `${start}.${size}`;
        if (!at.has(key)) at.set(key, { start: start - base, end: start - base + size, marks: [] });
        at.get(key).marks.push(mark);
      }
    }
  }
  const found = [];
  for (const place of [...at.values()].sort((a, b) => a.start - b.start || a.end - b.end)) {
    place.start = Math.max(place.start, found.at(-1)?.end ?? 0);
    if (place.start >= place.end) continue;
    const speaking = place.marks.some((mark) => mark.lit) ? place.marks.filter((mark) => mark.lit) : place.marks;
    place.lit = speaking[0].lit;
    place.push = speaking.reduce((sum, mark) => sum + mark.push, 0);
    place.first = speaking[0].spans[0][0] === base + place.start;
    place.speaking = speaking[0];
    found.push(place);
  }
  return found;
};

const spelled = (text) => {
  const fragment = document.createDocumentFragment();
  let last = 0;
  for (const match of text.matchAll(UNSEEN)) {
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    fragment.append(text.slice(last, match.index), make("bdi", { class: "cc", "data-u": code }, match[0]));
    last = match.index + 1;
  }
  fragment.append(text.slice(last));
  return fragment;
};

// Where a window of words around [start, end) begins and ends.
const around = (text, start, end) => {
  const before = text.slice(0, start).match(new RegExp(`(?:\\S+\\s+){0,${AROUND}}\\S*$`));
  const after = text.slice(end).match(new RegExp(`^\\S*(?:\\s+\\S+){0,${AROUND}}\\s*`));
  return [before ? before.index : start, end + (after ? after[0].length : 0)];
};

// Gaps with holes cut where `shown` places stand; what is left of a gap says how many words it hides.
const cut = (gap, text, shown) => {
  let left = [gap];
  for (const place of shown) {
    const [start, end] = around(text, place.start, place.end);
    left = left.flatMap((piece) =>
      end <= piece.start || start >= piece.end
        ? [piece]
        : [{ ...piece, end: start }, { ...piece, start: end }].filter((half) => text.slice(half.start, half.end).trim()),
    );
  }
  return left.map((piece) => {
    if (piece.start === gap.start && piece.end === gap.end) return piece;
    const count = text.slice(piece.start, piece.end).trim().split(/\s+/).length;
    return { ...piece, label: `${count.toLocaleString("en")} word${count === 1 ? "" : "s"}` };
  });
};

// A text with marks: a card's, or the query's own.
class Passage {
  constructor(root, { top, decimals, wordAt }) {
    const places = Number(root.dataset.d ?? decimals); // a weak row's scores have more
    this.root = root;
    Object.assign(this, unpack(root.dataset.m, places)); // marks, and how many there are in all
    this.top = top;
    this.print = printer(places);
    this.wordAt = wordAt; // a query word's text, by number; null in the query itself
    this.parts = [...root.querySelectorAll(".t")].map(readPart);
    let base = 0;
    for (const part of this.parts) {
      part.base = base;
      base += part.text.length + 1;
      part.places = placesOf(this.marks, part.base, part.text.length);
    }
    this.draw();
  }

  get elements() {
    return [...this.root.querySelectorAll(".t u")];
  }

  // Draw the text anew; `shown` are query words whose partners must not be folded away.
  draw(shown = new Set()) {
    for (const part of this.parts) {
      const wanted = part.places.filter((place) => shown.size && place.marks.some((mark) => meets(mark, shown)));
      const details = [...part.element.querySelectorAll("details")];
      details.forEach((element, index) => part.drawn?.[index] && (part.drawn[index].gap.open = element.open));
      part.drawn = [];
      const fragment = document.createDocumentFragment();
      let at = 0;
      for (const gap of part.gaps) {
        for (const piece of cut(gap, part.text, wanted)) {
          fragment.append(this.stretch(part, at, piece.start));
          const summary = make("summary", {}, piece.label);
          const content = this.stretch(part, piece.start, piece.end);
          const element = make("details", {}, summary, content);
          element.open = gap.open;
          part.drawn.push({ gap });
          fragment.append(element);
          at = piece.end;
        }
      }
      fragment.append(this.stretch(part, at, part.text.length));
      part.element.replaceChildren(fragment);
    }
  }

  stretch(part, start, end) {
    const fragment = document.createDocumentFragment();
    let at = start;
    for (const place of part.places) {
      if (place.start < at || place.end > end) continue;
      fragment.append(spelled(part.text.slice(at, place.start)), this.mark(part, place));
      at = place.end;
    }
    fragment.append(spelled(part.text.slice(at, end)));
    return fragment;
  }

  mark(part, place) {
    const text = part.text.slice(place.start, place.end);
    const { speaking } = place;
    const tone = part.tones.get(place.start) ?? toneOf(place.push, this.top);
    let tie = "";
    if (speaking.tie !== null) tie = `~ ${this.partnerText(speaking)} .${String(speaking.tie).padStart(2, "0")}`;
    else if (speaking.crossed && !speaking.via) tie = `× ${this.partnerText(speaking)}`;
    const count = speaking.spans.length;
    const told = speaking.crossed && !speaking.via && tone[1] < 3 ? "" : tie || speaking.via; // weak ones on hover only
    const note = place.first ? [count > 1 ? `×${count}` : "", told].filter(Boolean).join(" ") : "";
    const shared = count > 1 ? `, shared by ${count} places` : "";
    const element = make(
      "u",
      {
        class: (place.lit ? "" : "weak ") + tone,
        "data-n": note || null,
        role: "button",
        tabindex: "-1",
        title: `${text} ${this.print(place.push)}${shared}${tie && ` ${tie}`}${speaking.via && `, in ${speaking.via}`}`,
      },
      spelled(text),
    );
    element.place = place;
    return element;
  }

  partnerText(mark) {
    const { words } = strongest(named(mark));
    return words.length && this.wordAt ? this.wordAt(words[0]) : "";
  }
}
