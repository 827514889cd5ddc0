"""Predictions: what the model says of the held-out texts; filtered, sorted and paged by the URL alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from jaxtyping import Int64
from pydantic import BaseModel, Field

from headwater.attribution.overview import Overview
from headwater.attribution.overview_view import overview_view
from headwater.runs import Task, shown_texts
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.state import Bench, Typed
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

ROWS = 50  # of a page


class Shown(BaseModel):
    """Which rows are shown, and in which order."""

    model_config = {"extra": "forbid"}

    which: Literal["all", "wrong"] = "all"
    true: Annotated[Typed, Field(max_length=1000)] = ""
    """Only rows of this label."""
    said: Annotated[Typed, Field(max_length=1000)] = ""
    """Only rows that the model calls this."""
    text: Annotated[Typed, Field(max_length=1000)] = ""
    """Only rows that hold this, in whatever case."""
    sort: Literal["loss", "-loss", "row", "-row"] = "-loss"
    at: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    """The page, from 1."""

    def url(self, **changes: Any) -> str:
        """Return the address of the page with some settings changed; settings at their defaults are left out."""
        kept = {**self.model_dump(), "at": 1, **changes}
        defaults = Shown().model_dump()
        rest = urlencode([(name, value) for name, value in kept.items() if value != defaults[name]])
        return "/predictions" + ("?" + rest if rest else "")


@dataclass(frozen=True)
class Row:
    """One text as it is listed; `row` counts from 0."""

    row: int
    texts: tuple[str, ...]
    true: str | None
    said: str | None
    wrong: bool
    loss: float


@router.get("/predictions", response_class=HTMLResponse, include_in_schema=False)
async def predictions(request: Request, bench: Bench, shown: Annotated[Shown, Query()]) -> HTMLResponse:
    """Show the held-out texts with what the model says of them."""
    found = await bench.overview()
    rows = choose(bench.index.run.task, found, shown)
    pages = max(1, -(-len(rows) // ROWS))
    here = rows[(shown.at - 1) * ROWS : shown.at * ROWS]
    return page(
        request,
        "predictions.html.j2",
        here="/predictions",
        shown=shown,
        rows=[_row(bench.index.run.task, found, int(row)) for row in here],
        count=len(rows),
        pages=pages,
        classes=found.predictions is not None,
        overview=overview_view(found.to_dict([], "all")),
    )


@router.get("/api/predictions", tags=["predictions"], responses=REFUSED)
async def list_predictions(bench: Bench, shown: Annotated[Shown, Query()]) -> Mapping[str, Any]:
    """List the held-out texts: true label, predicted label, loss in nats (of a language model a token)."""
    found = await bench.overview()
    rows = choose(bench.index.run.task, found, shown)
    here = rows[(shown.at - 1) * ROWS : shown.at * ROWS]
    return {"count": len(rows), "rows": [vars(_row(bench.index.run.task, found, int(row))) for row in here]}


def choose(task: Task, found: Overview, shown: Shown) -> Int64[np.ndarray, " rows"]:
    """Return the rows that are wanted, in the order that is wanted; equal losses in the order of the rows."""
    count = len(found.corpus)
    keep = np.ones(count, dtype=bool)
    known = found.predictions
    if known is not None:
        if shown.which == "wrong":
            keep &= ~known.correct
        if shown.true:
            keep &= np.asarray([label == shown.true for label in known.true_labels])
        if shown.said:
            keep &= np.asarray([label == shown.said for label in known.predicted])
    if shown.text:
        wanted = shown.text.casefold()
        keep &= np.asarray(
            [any(wanted in text.casefold() for text in shown_texts(task, found.corpus[row])) for row in range(count)]
        )
    rows = np.flatnonzero(keep)
    if shown.sort == "-row":
        return rows[::-1]
    if shown.sort != "row":
        sign = -1 if shown.sort == "-loss" else 1
        rows = rows[np.argsort(sign * found.losses[rows], kind="stable")]
    return rows


def _row(task: Task, found: Overview, row: int) -> Row:
    known = found.predictions
    label = found.corpus[row].label
    return Row(
        row=row,
        texts=shown_texts(task, found.corpus[row]),
        true=None if label is None else str(label) if known is None else known.true_labels[row],
        said=None if known is None else known.predicted[row],
        wrong=known is not None and not bool(known.correct[row]),
        loss=float(found.losses[row]),
    )
