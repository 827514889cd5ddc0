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
from typing import Any

import headwater
from headwater.errors import DataError
from headwater.remedies.marks import Mark, Marks
from headwater.remedies.plan import Header, Plan, Repair, read_plan
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
    run: Run, row: int, action: str, *, label: str | None = None, suggested: Repair | None = None, status: str
) -> Repair:
    """Make the decision on one row: what was suggested for it, where that is the same; else a repair of its own.

    Raises DataError: no such row; a label that the model has not, or that the row carries already.
    """
    if row >= len(run.corpus):
        raise DataError(f"{run.corpus.name} has {len(run.corpus):,} rows: there is no row {row:,} (they count from 0).")
    decided_at = None if status == "suggested" else datetime.now(UTC).isoformat(timespec="seconds")
    if suggested is not None and (suggested.action, _text(suggested.label)) == (action, label):
        return replace(suggested, status=status, at=decided_at)
    example = run.corpus[row]
    value = None if label is None else _label(run, label)
    if value is not None and _text(value) == _text(example.label):
        raise DataError(f"row {row:,} carries that label already: {label!r}. To keep it so, mark it to be kept.")
    was: dict[str, Any] | None = None if value is None else {"label": example.label}
    return Repair(
        action,
        row=row,
        id=example.id,
        hash=example.hash,
        label=value,
        was=was,
        status=status,
        source=BY_HAND if suggested is None else suggested.source,
        group=None if suggested is None else suggested.group,
        at=decided_at,
    )


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


def _label(run: Run, label: str) -> str | int:
    """The label as the corpus holds it."""
    if text_task(run.task) is not None:
        return label
    for name in run.label2id:
        if str(name) == label:
            return name
    raise DataError(f"the model has no label {label!r}: {', '.join(map(str, run.label2id))}.")


def _text(label: str | int | None) -> str | None:
    return None if label is None else str(label)
