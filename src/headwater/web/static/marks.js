// The marks of the run: written at once, and heard of when another tab, or another person, writes one.
import { announce, ask, make } from "./frame.js";

const EVERY = 2000; // milliseconds between two looks

export class Marks {
  constructor(version, changed) {
    this.version = version;
    this.changed = changed; // called with the marks that are new
    this.known = new Map(); // row -> mark
    this.undone = []; // what was decided here, the last step last: { row, before, audit }
    setInterval(() => document.hidden || this.look(), EVERY);
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  /** Ask for what is newer than what is known; failures wait for the next look. */
  async look() {
    try {
      const found = await ask(`/api/marks?since=${this.version}`);
      this.version = Math.max(this.version, found.version);
      this.take(found.marks);
    } catch {
      // the server is away, or busy: the next look tells
    }
  }

  take(marks) {
    const fresh = marks.filter((mark) => (this.known.get(mark.row)?.version ?? 0) < mark.version);
    for (const mark of fresh) this.known.set(mark.row, mark);
    if (fresh.length) this.changed(fresh);
  }

  /** What is decided of a row; null: nothing. */
  of(row) {
    const mark = this.known.get(row);
    return mark && mark.status !== "suggested" ? mark : null;
  }

  /** Decide. A row that was marked elsewhere meanwhile is shown as it stands there; the failure says both values. */
  async decide(row, action, { label, fields, audit, step = true } = {}) {
    const before = this.of(row);
    try {
      const mark = await this.put(row, { action, label, fields, audit });
      if (step) this.undone.push({ row, before, audit });
      this.take([mark]);
      announce(`Row ${row}: ${tell(mark)}.`);
    } catch (problem) {
      if (problem.status === 409 && problem.body.here) this.take([problem.body.here]);
      throw problem;
    }
  }

  put(row, decision) {
    return ask(`/api/marks/${row}`, { method: "PUT", body: { ...decision, seen: this.known.get(row)?.version ?? 0 } });
  }

  /** Take the last decision back; returns its row. */
  async undo() {
    const last = this.undone.pop();
    if (!last) return null;
    const { row, before, audit } = last;
    if (before === null) await this.decide(row, "undo", { audit, step: false });
    else if (before.action === "relabel") await this.decide(row, "relabel", { label: before.label, audit, step: false });
    else if (before.action === "edit") await this.decide(row, "edit", { fields: before.fields, audit, step: false });
    else if (before.action === "delete" || before.action === "keep") await this.decide(row, before.action, { audit, step: false });
    else await this.decide(row, "accept", { audit, step: false });
    return row;
  }
}

/** What a mark says, in a word or two. */
export function tell(mark) {
  if (!mark || mark.status === "suggested") return "undecided";
  if (mark.status === "rejected") return "kept as it is";
  if (mark.action === "keep") return "kept as it is";
  return mark.does;
}

/** Old and new words of a mark, text by text: `words` as /api/marks/{row} tells them. */
export function wordsOf(words) {
  const tags = { old: "del", new: "ins", same: "span" };
  return Object.entries(words).map(([title, pieces]) =>
    make("p", { class: "reworded", dir: "auto" }, make("b", {}, title), ...pieces.map(([kind, text]) => make(tags[kind], {}, text))),
  );
}
