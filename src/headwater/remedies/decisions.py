"""What people decide on: the suggestions of the audits of a run, and one row's decision as a repair.

RUN/audit/WHAT/plan.jsonl        suggestions, written by `headwater audit`
RUN/headwater/marks.sqlite       decisions, see `headwater.remedies.marks`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import headwater
from headwater.errors import DataError
from headwater.remedies.apply import editable, new_label, new_texts
from headwater.remedies.change import label_of
from headwater.remedies.marks import Mark, Marks
from headwater.remedies.plan import Header, Plan, Repair, read_plan
from headwater.remedies.reworded import Piece, reworded
from headwater.remedies.spelling import class_labels, spelled, with_line_ends_of
from headwater.runs.corpus import Corpus, Label
from headwater.runs.record import FOLDER
from headwater.runs.run import Run
from headwater.runs.task import text_task

BY_HAND = "by hand"
"""The source of decisions that no audit suggested."""


@dataclass(frozen=True)
class Suggestions:
    """The audits' plans by the name of their folder; `notes` says which were left out, and why."""

    plans: Mapping[str, Plan]
    rows: Mapping[str, Mapping[int, Repair]]
    """Of each plan, its suggestions by row."""
    notes: tuple[str, ...] = ()

    def of(self, audit: str, row: int) -> Repair | None:
        """Return what an audit suggests for a row, if anything."""
        return self.rows.get(audit, {}).get(row)


def marks_of(run: Run) -> Marks:
    """Return the marks of a run; nothing is written until somebody marks a row."""
    return Marks(run.folder / FOLDER / "marks.sqlite")


def suggestions_of(run: Run) -> Suggestions:
    """Read the plans of the audits of a run. One that is broken, or that speaks of other rows, is left out and told."""
    plans: dict[str, Plan] = {}
    rows: dict[str, Mapping[int, Repair]] = {}
    notes = []
    for path in sorted((run.folder / "audit").glob("*/plan.jsonl")):
        name = path.parent.name
        try:
            found = path.stat()
            plan, by_row = _read(path, found.st_mtime_ns, found.st_size)
        except (DataError, OSError) as error:
            notes.append(f"The suggestions of {name} cannot be read: {error}")
            continue
        corpus = plan.header.corpus if plan.header else None
        beyond = max(by_row, default=0) >= len(run.corpus)
        if beyond or corpus not in (None, run.corpus.fingerprint, run.corpus.name):
            notes.append(f"The suggestions of {name} speak of another corpus: run `headwater audit RUN {name}` again.")
        elif plan.repairs:
            plans[name], rows[name] = plan, by_row
    return Suggestions(plans, rows, tuple(notes))


@lru_cache(maxsize=32)
def _read(path: Path, changed: int, size: int) -> tuple[Plan, Mapping[int, Repair]]:
    """Read a plan once for each state of its file."""
    plan = read_plan(path)
    return plan, {repair.row: repair for repair in plan.repairs if repair.row is not None}


def decide(
    run: Run,
    row: int,
    action: str,
    *,
    label: str | None = None,
    fields: Mapping[str, str] | None = None,
    suggested: Repair | None = None,
    status: str,
) -> Repair:
    """Make the decision on one row: what was suggested for it, where that is the same; else a repair of its own.

    Raises DataError: no such row; a label that the model has not, or that the row carries already; a text that is
    blank, or that stands there already; a column that cannot be edited.
    """
    if row >= len(run.corpus):
        raise DataError(f"{run.corpus.name} has {len(run.corpus):,} rows: there is no row {row:,} (they count from 0).")
    decided_at = None if status == "suggested" else datetime.now(UTC).isoformat(timespec="seconds")
    given = dict(fields) if fields else None
    if suggested is not None and _says(suggested, action, label, given):
        return replace(suggested, status=status, at=decided_at)
    example = run.corpus[row]
    value, texts = (
        None if label is None else _label(run, row, label),
        None if given is None else _texts(run, row, given),
    )
    if suggested is not None and _says(suggested, action, value, texts):
        return replace(suggested, status=status, at=decided_at)
    was: dict[str, Any] | None = None if value is None else {"label": label_of(run.corpus, row)}
    return Repair(
        action,
        row=row,
        id=example.id,
        hash=example.hash,
        label=value,
        fields=texts,
        was=was if texts is None else {"fields": {column: _held(run.corpus, row, column) for column in texts}},
        status=status,
        source=BY_HAND if suggested is None else suggested.source,
        group=None if suggested is None else suggested.group,
        at=decided_at,
    )


@dataclass(frozen=True)
class Mendable:
    """A text of a row that can be mended: by `relabel` (a completion), or by `edit` of `column`."""

    title: str
    column: str
    text: str
    action: Literal["relabel", "edit"]


def mendable(run: Run, row: int) -> tuple[Mendable, ...]:
    """Return the texts of a row that can be mended, as they stand in the corpus: prompts first, completions last."""
    corpus, classes = run.corpus, text_task(run.task) is None
    label, columns = corpus.columns.label, editable(corpus, classes=classes)
    texts = [Mendable(name, name, _held(corpus, row, name), "edit") for name in columns if name != label]
    if classes or label_of(corpus, row) is None:
        return tuple(texts)
    title = "the assistant's last turn" if label is None else label
    return (*texts, Mendable(title, label or corpus.columns.text, str(label_of(corpus, row)), "relabel"))


def does(run: Run, repair: Repair) -> str:
    """What a repair does, in a word or two."""
    if repair.action == "relabel":
        return f"relabel to {repair.label}" if text_task(run.task) is None else "mend the completion"
    if repair.action == "edit":
        return "edit the text"
    return f"weight {repair.weight:.3g}" if repair.action == "weight" else repair.action


def rewording(run: Run, repair: Repair) -> dict[str, tuple[Piece, ...]]:
    """What a repair changes in the words of its row, text by text: nothing where it only names another class."""
    row = repair.row
    if row is None or row >= len(run.corpus):
        return {}
    if repair.action == "edit":
        texts = {
            column: text for column, text in (repair.fields or {}).items() if column in run.corpus.table.column_names
        }
        return {column: reworded(_held(run.corpus, row, column), text) for column, text in texts.items()}
    if repair.action != "relabel" or text_task(run.task) is None:
        return {}
    of = [each for each in mendable(run, row) if each.action == "relabel"]
    return {each.title: reworded(each.text, str(repair.label)) for each in of}


def kept_rows(run: Run) -> frozenset[int]:
    """Return the rows that somebody looked at and wants to keep: audits are silent on them until they change."""
    kept = [mark for row, mark in marks_of(run).read().items() if _keeps(mark) and row < len(run.corpus)]
    return frozenset(mark.row for mark in kept if mark.repair.hash == run.corpus[mark.row].hash)


def accepted_plan(run: Run, command: str | None = None) -> Plan:
    """Return the accepted marks as a plan of this corpus, in the order of rows."""
    return marks_of(run).plan(Header(run.name, run.corpus.fingerprint, command, headwater.__version__))


def by_hand(suggestions: Suggestions, marks: Mapping[int, Mark]) -> Plan:
    """Return the decisions on rows that no audit suggests, as a plan."""
    known = {row for rows in suggestions.rows.values() for row in rows}
    return Plan(tuple(mark.repair for row, mark in marks.items() if row not in known and mark.by_hand))


def _keeps(mark: Mark) -> bool:
    return (mark.repair.action, mark.repair.status) == ("keep", "accepted") and mark.by_hand


def _says(repair: Repair, action: str, label: Label | None, fields: Mapping[str, str] | None) -> bool:
    return (repair.action, _text(repair.label), repair.fields) == (action, _text(label), fields)


def _label(run: Run, row: int, label: str) -> Label:
    """The label as the corpus holds it; of a language model the completion."""
    classes, held = text_task(run.task) is None, label_of(run.corpus, row)
    if classes and label not in {*map(str, run.label2id), *class_labels(run)}:
        raise DataError(f"the model has no label {label!r}: {', '.join(map(str, run.label2id))}.")
    asked = spelled(run, label) if classes else with_line_ends_of(str(held), label)
    value = new_label(f"row {row:,}", Repair("relabel", row=row, label=asked), run.corpus, row, classes=classes)
    if _text(value) == _text(held):
        raise DataError(f"row {row:,} carries that label already: {label!r}. To keep it so, mark it to be kept.")
    return value


def _texts(run: Run, row: int, fields: Mapping[str, str]) -> dict[str, str]:
    """The texts of an edit that are other ones than the row holds."""
    asked = Repair("edit", row=row, fields=dict(fields))
    texts = new_texts(f"row {row:,}", asked, run.corpus, classes=text_task(run.task) is None)
    held = {column: _held(run.corpus, row, column) for column in texts}
    mended = {column: with_line_ends_of(held[column], text) for column, text in texts.items()}
    found = {column: text for column, text in mended.items() if text != held[column]}
    if not found:
        raise DataError(f"row {row:,} holds these very words: change some. To keep it so, mark it to be kept.")
    return found


def _held(corpus: Corpus, row: int, column: str) -> str:
    return str(corpus.table.column(column)[row].as_py())


def _text(label: Label | None) -> str | None:
    return None if label is None else str(label)
