"""Marks: what somebody decides of a row is written at once, seen by every other tab, and exported as a repair plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from headwater.errors import DataError
from headwater.remedies.decisions import accepted_plan, decide, does, marks_of, rewording, suggestions_of
from headwater.remedies.marks import ConflictError, Mark
from headwater.remedies.plan import Repair
from headwater.runs import Run
from headwater.web.errors import REFUSED
from headwater.web.state import Standing, Typed, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

Number = Annotated[int, Path(ge=0, le=1 << 53)]
Version = Annotated[int, Field(ge=0, le=1 << 53)]
Rows = Annotated[list[Annotated[int, Field(ge=0, le=1 << 53)]], Field(max_length=500)]
Name = Annotated[Typed, Field(max_length=1000)]


Text = Annotated[Typed, Field(max_length=50_000)]


class Decision(BaseModel):
    """What shall be done to a row."""

    model_config = {"extra": "forbid"}

    action: Literal["accept", "delete", "relabel", "edit", "keep", "undo"]
    """`accept`: what the audit suggests. `undo`: back to undecided."""
    label: Text | None = None
    """Of relabel: the new label; of a language model the new completion."""
    fields: Annotated[dict[Name, Text], Field(min_length=1, max_length=10)] | None = None
    """Of edit: the new texts by column; those that stand there already change nothing."""
    audit: Name | None = None
    """Whose suggestion is decided on."""
    seen: Version = 0
    """The version of the row's mark that the decision was made on; 0: there was none."""


@router.get("/api/marks", tags=["marks"], responses=REFUSED)
def list_marks(bench: Standing, since: Annotated[Version, Query()] = 0) -> Mapping[str, Any]:
    """List the marks that were written after version `since`, and the latest version there is."""
    found = marks_of(bench.index.run).read(since)
    latest = max((mark.version for mark in found.values()), default=since)
    return {"version": latest, "marks": [told(bench, mark) for mark in found.values()]}


@router.get("/api/marks/{row}", tags=["marks"], responses=REFUSED)
def read_mark(bench: Standing, row: Number) -> Mapping[str, Any]:
    """One row's mark, null if there is none, with `words`: by text, what is kept (same), goes (old) and comes (new)."""
    mark = marks_of(bench.index.run).read().get(row)
    if mark is None:
        return {"mark": None, "words": {}}
    return {"mark": told(bench, mark), "words": rewording(bench.index.run, mark.repair)}


@router.put("/api/marks/{row}", tags=["marks"], responses=REFUSED)
def write_mark(bench: Standing, row: Number, decision: Decision) -> Mapping[str, Any]:
    """Decide on one row. 409 with both values where the row was marked since the version that was `seen`."""
    run = bench.index.run
    repair = _decided(bench, row, decision)
    try:
        mark = marks_of(run).write(repair, decision.seen)
    except ConflictError as error:
        here = None if error.here is None else told(bench, error.here)
        wanted = {
            "row": row, "action": repair.action, "label": repair.label, "fields": repair.fields, "status": repair.status
        }  # fmt: skip
        raise HTTPException(409, {"error": str(error), "here": here, "wanted": wanted}) from None
    return told(bench, mark)


@router.get("/api/suggestions", tags=["marks"], responses=REFUSED)
def list_suggestions(bench: Standing, row: Annotated[Rows, Query()]) -> list[dict[str, Any]]:
    """What the audits suggest for these rows."""
    found = suggestions_of(bench.index.run)
    told_all: list[dict[str, Any]] = []
    for audit in found.plans:
        for repair in filter(None, (found.of(audit, each) for each in dict.fromkeys(row))):
            label = None if repair.label is None else str(repair.label)
            told_all.append({"audit": audit, "row": repair.row, "action": repair.action, "label": label})
    return told_all


@router.get("/api/plan", tags=["marks"], response_class=PlainTextResponse)
def export_plan(bench: Standing) -> PlainTextResponse:
    """The accepted marks as a repair plan (jsonl) for `headwater fix`."""
    plan = accepted_plan(bench.index.run, "headwater serve")
    headers = {"Content-Disposition": 'attachment; filename="plan.jsonl"'}
    return PlainTextResponse(plan.lines(), headers=headers)


def told(bench: Workbench, mark: Mark) -> dict[str, Any]:
    """Return a mark as pages and programs read it."""
    repair = mark.repair
    return {
        "row": mark.row,
        "action": repair.action,
        "label": None if repair.label is None else str(repair.label),
        "fields": repair.fields,
        "does": does(bench.index.run, repair),
        "status": repair.status,
        "by_hand": mark.by_hand,
        "version": mark.version,
    }


def doomed_rows(bench: Workbench) -> list[int]:
    """Return the rows that accepted marks take away, or change, from the first."""
    marks = marks_of(bench.index.run).read()
    return [row for row, mark in marks.items() if mark.repair.status == "accepted" and mark.repair.action != "keep"]


def _decided(bench: Workbench, row: int, decision: Decision) -> Repair:
    run = bench.index.run
    suggested = None if decision.audit is None else suggestions_of(run).of(decision.audit, row)
    if (decision.label is not None) != (decision.action == "relabel"):
        raise DataError("label: give one where the action is relabel, and only there.")
    if (decision.fields is not None) != (decision.action == "edit"):
        raise DataError("fields: give the new texts where the action is edit, and only there.")
    if decision.action == "accept":
        if suggested is None:
            raise DataError(f"row {row:,}: no audit of that name suggests anything. Give its name: audit.")
        return _as(run, row, suggested, "accepted")
    if decision.action == "undo":
        here = marks_of(run).read().get(row)
        if here is None:
            raise DataError(f"row {row:,} is not marked: there is nothing to undo.")
        return _as(run, row, suggested or here.repair, "suggested")
    label, fields = decision.label, decision.fields
    return decide(run, row, decision.action, label=label, fields=fields, suggested=suggested, status="accepted")


def _as(run: Run, row: int, repair: Repair, status: str) -> Repair:
    """A repair that stands there already, or is suggested, with another status."""
    label = None if repair.label is None else str(repair.label)
    return decide(run, row, repair.action, label=label, fields=repair.fields, suggested=repair, status=status)
