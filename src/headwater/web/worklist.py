"""Worklist: the audits' suggestions in groups, the largest first; a group is accepted once a sample of it was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from headwater.errors import DataError
from headwater.remedies.decisions import (
    BY_HAND,
    Suggestions,
    by_hand,
    does,
    marks_of,
    rewording,
    suggestions_of,
)
from headwater.remedies.groups import Group, groups_of
from headwater.remedies.marks import Mark
from headwater.remedies.plan import Plan, Repair
from headwater.remedies.review import Band, Left, bands_of, sample_of, was_right, wilson, wrong_left
from headwater.remedies.reworded import Piece
from headwater.remedies.spelling import class_labels
from headwater.runs import Example
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.marks import Name, told
from headwater.web.state import Standing, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

ROWS = 50  # of a page


class Chosen(BaseModel):
    """Which suggestions are shown: a group, or a band of ranks, of one audit."""

    model_config = {"extra": "forbid"}

    audit: Name
    group: Name = ""
    """The group's name; "" for suggestions without one."""
    band: Annotated[int, Field(ge=0, le=20)] = 0
    """From 1: a sample of this band of ranks, whatever the group; 0: the group."""
    rows: Literal["sample", "all"] = "sample"
    """A random sample to look at first, or all by rank."""
    at: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    """The page, from 1."""

    def url(self, **changes: Any) -> str:
        """Return the address of the page with some settings changed; settings at their defaults are left out."""
        kept = self.model_copy(update={"at": 1, **changes}).model_dump(exclude_defaults=True)
        return "/worklist/group?" + urlencode(kept)


class Accepted(BaseModel):
    """A group that shall be accepted as a whole."""

    model_config = {"extra": "forbid"}

    audit: Name
    group: Name = ""


@dataclass(frozen=True)
class Sampled:
    """What a reviewed sample says: of `reviewed` rows of `size`, `right` were wrong rows; 95% interval of the share."""

    size: int
    reviewed: int
    right: int
    low: float
    high: float


@dataclass(frozen=True)
class Listed:
    """A group as the worklist shows it."""

    audit: str
    name: str
    title: str
    size: int
    decided: int
    does: str
    sample: Sampled
    url: str


@dataclass(frozen=True)
class Audited:
    """What reviews say of an audit's whole order."""

    audit: str
    bands: tuple[Band, ...]
    left: Left


@dataclass(frozen=True)
class Card:
    """A suggestion with its row and what was decided."""

    repair: Repair
    example: Example
    does: str
    mark: Mark | None
    words: Mapping[str, Sequence[Piece]]
    """What it changes in the row's words, text by text."""

    def evidence(self, kind: str) -> list[Any]:
        """Return the evidence of one kind."""
        return [each for each in self.repair.evidence if each.kind == kind]


@router.get("/worklist", response_class=HTMLResponse, include_in_schema=False)
def worklist(request: Request, bench: Standing, at: Annotated[int, Query(ge=1, le=10_000_000)] = 1) -> HTMLResponse:
    """Show the groups; `at` is the page, from 1."""
    found, marks = suggestions_of(bench.index.run), marks_of(bench.index.run).read()
    groups = _groups(bench, found, marks)
    return page(
        request,
        "worklist.html.j2",
        here="/worklist",
        groups=groups[(at - 1) * ROWS : at * ROWS],
        count=len(groups),
        at=at,
        pages=max(1, -(-len(groups) // ROWS)),
        audits=[_audited(name, plan, marks) for name, plan in found.plans.items()],
        totals=_totals(marks),
        notes=found.notes,
        version=max((mark.version for mark in marks.values()), default=0),
    )


@router.get("/worklist/group", response_class=HTMLResponse, include_in_schema=False)
def group_page(request: Request, bench: Standing, chosen: Annotated[Chosen, Query()]) -> HTMLResponse:
    """Show a group's rows: a random sample to look at first, or all."""
    marks = marks_of(bench.index.run).read()
    group = _chosen(bench, chosen, marks)
    rows = sample_of(group.repairs) if chosen.rows == "sample" else list(group.repairs)
    here = rows if chosen.rows == "sample" else rows[(chosen.at - 1) * ROWS : chosen.at * ROWS]
    return page(
        request,
        "group.html.j2",
        here="/worklist",
        chosen=chosen,
        group=group,
        listed=_listed(bench, group, marks),
        cards=[_card(bench, repair, marks) for repair in here],
        pages=max(1, -(-len(rows) // ROWS)) if chosen.rows == "all" else 1,
        labels=class_labels(bench.index.run),
        version=max((mark.version for mark in marks.values()), default=0),
    )


@router.get("/api/worklist", tags=["marks"], responses=REFUSED)
def list_groups(bench: Standing) -> Mapping[str, Any]:
    """List the groups of suggestions, the largest first, and what reviews say of each audit by band of rank."""
    found, marks = suggestions_of(bench.index.run), marks_of(bench.index.run).read()
    audits = [_audited(name, plan, marks) for name, plan in found.plans.items()]
    return {
        "groups": [{**vars(each), "sample": vars(each.sample)} for each in _groups(bench, found, marks)],
        "audits": [
            {
                "audit": each.audit,
                "bands": [{**vars(band), "precision": band.precision} for band in each.bands],
                "left": vars(each.left),
            }
            for each in audits
        ],
        "accepted": _totals(marks),
        "notes": list(found.notes),
    }


@router.get("/api/worklist/group", tags=["marks"], responses=REFUSED)
def one_group(bench: Standing, chosen: Annotated[Chosen, Query()]) -> Mapping[str, Any]:
    """One group: its rows with what is suggested, what was decided, and what its reviewed sample says."""
    marks = marks_of(bench.index.run).read()
    group = _chosen(bench, chosen, marks)
    listed = _listed(bench, group, marks)
    rows = sample_of(group.repairs) if chosen.rows == "sample" else list(group.repairs)
    here = rows if chosen.rows == "sample" else rows[(chosen.at - 1) * ROWS : chosen.at * ROWS]
    return {**vars(listed), "sample": vars(listed.sample), "rows": [_told(bench, repair, marks) for repair in here]}


@router.post("/api/worklist/accept", tags=["marks"], responses=REFUSED)
def accept_group(bench: Standing, accepted: Accepted) -> Mapping[str, Any]:
    """Accept the undecided rows of a group. 409 until each row of its random sample was decided on by hand."""
    run = bench.index.run
    marks = marks_of(run).read()
    group = _chosen(bench, Chosen(audit=accepted.audit, group=accepted.group), marks)
    sampled = sample_of(group.repairs)
    unseen = [repair.row for repair in sampled if not _reviewed(repair, marks)]
    if unseen:
        message = f"Look at a sample first: {len(sampled) - len(unseen)} of {len(sampled)} rows are decided on."
        raise HTTPException(409, {"error": message, "unseen": unseen})
    return {"accepted": marks_of(run).accept(group.repairs)}


def _groups(bench: Workbench, found: Suggestions, marks: Mapping[int, Mark]) -> list[Listed]:
    groups = [group for name, plan in found.plans.items() for group in groups_of(name, plan)]
    mine = by_hand(found, marks)
    if mine.repairs:
        groups.append(Group(BY_HAND, "", mine.repairs))
    return [_listed(bench, group, marks) for group in sorted(groups, key=lambda group: -len(group.repairs))]


def _chosen(bench: Workbench, chosen: Chosen, marks: Mapping[int, Mark]) -> Group:
    """Return the group, or the band, that is asked for. Raises DataError where there is none."""
    found = suggestions_of(bench.index.run)
    plan = by_hand(found, marks) if chosen.audit == BY_HAND else found.plans.get(chosen.audit)
    if plan is None:
        raise DataError(f"there are no suggestions of {chosen.audit!r}: run `headwater audit RUN WHAT` first.")
    if chosen.band:
        return _band(chosen, plan, marks)
    if chosen.audit == BY_HAND:
        return Group(BY_HAND, "", plan.repairs)
    for group in groups_of(chosen.audit, plan):
        if group.name == chosen.group:
            return group
    raise DataError(f"{chosen.audit} has no group {chosen.group!r}.")


def _band(chosen: Chosen, plan: Plan, marks: Mapping[int, Mark]) -> Group:
    bands = bands_of(plan.repairs, marks)
    if chosen.band > len(bands):
        raise DataError(f"{chosen.audit} has {len(bands)} bands of ranks.")
    band = bands[chosen.band - 1]
    return Group(chosen.audit, f"ranks {band.first:,} to {band.last:,}", plan.repairs[band.first - 1 : band.last])


def _listed(bench: Workbench, group: Group, marks: Mapping[int, Mark]) -> Listed:
    chosen = Chosen(audit=group.audit, group=group.name)
    title = "marked by you" if group.audit == BY_HAND else group.title
    decided, size = group.decided(marks), len(group.repairs)
    told_does = _does(bench, group.repairs)
    return Listed(group.audit, group.name, title, size, decided, told_does, _sampled(group, marks), chosen.url())


def _sampled(group: Group, marks: Mapping[int, Mark]) -> Sampled:
    drawn = sample_of(group.repairs)
    seen = [marks[repair.row] for repair in drawn if repair.row is not None and _reviewed(repair, marks)]
    right = sum(map(was_right, seen))
    return Sampled(len(drawn), len(seen), right, *wilson(right, len(seen)))


def _reviewed(repair: Repair, marks: Mapping[int, Mark]) -> bool:
    mark = marks.get(-1 if repair.row is None else repair.row)
    return mark is not None and mark.by_hand and mark.repair.status != "suggested"


def _audited(name: str, plan: Plan, marks: Mapping[int, Mark]) -> Audited:
    bands = bands_of(plan.repairs, marks)
    return Audited(name, tuple(bands), wrong_left(bands))


def _totals(marks: Mapping[int, Mark]) -> dict[str, int]:
    """How many rows are accepted, by action."""
    return dict(Counter(mark.repair.action for mark in marks.values() if mark.repair.status == "accepted"))


def _does(bench: Workbench, repairs: tuple[Repair, ...]) -> str:
    """What a group's suggestions do, the most frequent first."""
    counts = Counter(does(bench.index.run, repair) for repair in repairs).most_common(3)
    return ", ".join(name if len(counts) == 1 else f"{name} ({count:,})" for name, count in counts)


def _card(bench: Workbench, repair: Repair, marks: Mapping[int, Mark]) -> Card:
    row = repair.row or 0
    run = bench.index.run
    example = run.task.shown(bench.index.corpus[row])
    return Card(repair, example, does(run, repair), marks.get(row), rewording(run, repair))


def _told(bench: Workbench, repair: Repair, marks: Mapping[int, Mark]) -> dict[str, Any]:
    card = _card(bench, repair, marks)
    return {
        "row": repair.row,
        "text": card.example.text,
        "text_pair": card.example.text_pair,
        "was": card.example.label,
        "suggestion": card.does,
        "rank": repair.rank,
        "score": repair.score,
        "confidence": repair.confidence,
        "mark": None if card.mark is None else told(bench, card.mark),
    }
