"""Why? The rows and words that taught the model one answer; for a held-out row, or for a text that the user types."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from headwater.attribution.attributions import Attributions
from headwater.attribution.by_place import words_by_place
from headwater.attribution.removing import estimate_removal
from headwater.attribution.view import clean
from headwater.errors import DataError
from headwater.evaluation.candidates import Candidate
from headwater.methods import Method
from headwater.runs import Example, text_task
from headwater.web.errors import REFUSED
from headwater.web.look import environment, page
from headwater.web.marks import doomed_rows
from headwater.web.state import Bench, Typed, Workbench
from headwater.web.waiting import PatientRoute
from headwater.web.why_view import BY_PLACE, before_answer, card_view, why_view

router = APIRouter(route_class=PatientRoute)

Text = Annotated[Typed, Field(max_length=50_000)] | None
Row = Annotated[int, Field(ge=0, le=1 << 53)]


class Asked(BaseModel):
    """One question: a held-out row (from 0), or a text with the label that is to be explained."""

    model_config = {"extra": "forbid"}

    row: Row | None = None
    text: Text = None
    text_pair: Text = None
    label: Text = None
    """What to explain of a typed text; if not given, what the model says."""
    explain: Literal["said", "label"] | None = None
    """Of a row: what the model says, or the label it should have said. If not given: of classes what it says, of a
    language model the row's own completion."""
    start: Row | None = None
    """Of a language model: explain its completion from this character on (from 0)..."""
    end: Row | None = None
    """... up to this one."""
    method: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=2)] = []
    """By which methods, at most two side by side, with options as tracin-we/normalize=both; if not given, the first
    that the index can answer by."""
    k: Annotated[int, Field(ge=1, le=100)] = 10
    """Rows a list."""
    opened: Row | None = None
    """Of a card that is opened: its training row."""
    marked: Annotated[list[Row], Field(max_length=1000)] = []
    """Of the estimate of a removal: these training rows; if not given, those that the accepted marks change."""

    @model_validator(mode="after")
    def _whole_span(self) -> Asked:
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end go together")
        return self

    @property
    def asks(self) -> bool:
        """Whether there is a question at all."""
        return self.row is not None or bool(self.text)

    @property
    def methods(self) -> list[str]:
        """Return each method that is named once; a form without scripts sends "" for none."""
        return list(dict.fromkeys(name for name in self.method if name))

    def question(self) -> str:
        """Return what is asked, whatever the method and the marks."""
        return self.model_dump_json(exclude={"method", "marked", "opened"})

    def url(self, **changes: Any) -> str:
        """Return the address of the page with some settings changed; settings at their defaults are left out."""
        return "/why?" + urlencode(self.model_copy(update=changes).model_dump(exclude_defaults=True), doseq=True)


@router.get("/why", response_class=HTMLResponse, include_in_schema=False)
async def why(request: Request, bench: Bench, asked: Annotated[Asked, Query()]) -> HTMLResponse:
    """Show what taught the model its answer; without a question, a form to ask one."""
    methods = await methods_of(bench)
    chosen = asked.methods or [methods[0].name]
    answers = [await answer_of(bench, asked, name) for name in chosen] if asked.asks else []
    ranks = await _ranks(bench) if asked.row is not None else []
    shown = why_view(bench.index, asked, chosen, answers, methods, ranks, _held(bench, asked))
    return page(request, "why.html.j2", here="/why", shown=shown, asked=asked)


@router.get("/why/card", response_class=HTMLResponse, include_in_schema=False)
async def card(bench: Bench, asked: Annotated[Asked, Query()]) -> HTMLResponse:
    """Draw one card anew, its words by the places of its row: what the page puts in the place of the old card."""
    must_ask(asked)
    if asked.opened is None or BY_PLACE not in (asked.methods or [BY_PLACE]):
        raise HTTPException(422, f"Give the row to open, and {BY_PLACE} among the methods.")
    row, answer = asked.opened, await answer_of(bench, asked, BY_PLACE)
    words = await bench.once(("places", asked.question(), row), lambda: _by_place(bench, asked, row))
    number = asked.methods.index(BY_PLACE) + 1 if asked.methods else 1
    drawn = card_view(answer, asked, row, words, number)
    if drawn is None:
        raise HTTPException(404, f"Row {row:,} is not among the rows of this answer.")
    return HTMLResponse(environment().get_template("why_card.html.j2").render(**drawn))


@router.get("/api/why", tags=["why"], responses=REFUSED)
async def explain_one(bench: Bench, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """Explain one answer by one method: what `headwater query --json` prints."""
    must_ask(asked)
    return await answer_of(bench, asked, await chosen_method(bench, asked))


@router.get("/api/why/removal", tags=["why"], responses=REFUSED)
async def removal(bench: Bench, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """Estimate, to first order, which share of the push toward and away from an answer the marked rows hold."""
    must_ask(asked)
    scores = await scores_of(bench, asked, await chosen_method(bench, asked))
    rows = asked.marked or await run_in_threadpool(doomed_rows, bench)
    return vars(estimate_removal(scores, rows))


async def methods_of(bench: Workbench) -> tuple[Method, ...]:
    """Return the methods that the index can answer by."""
    return await bench.once("methods", lambda: bench.index.methods)


async def answer_of(bench: Workbench, asked: Asked, method: str) -> dict[str, Any]:
    """Answer a question, or return the answer that is kept. Raises DataError, UsageError, StoreError, BusyError."""

    def made() -> dict[str, Any]:
        found: Attributions = _ask(bench, asked, method)
        cleaned: dict[str, Any] = clean(found.to_dict())
        return cleaned

    return await bench.once(("answer", method, asked.question()), made)


async def scores_of(bench: Workbench, asked: Asked, method: str) -> Any:
    """Return the scores of all rows, float32 [rows]; kept as answers are."""
    return await bench.once(("scores", method, asked.question()), lambda: _ask(bench, asked, method, scored=True))


def must_ask(asked: Asked) -> None:
    """Refuse a request without a question."""
    if not asked.asks:
        raise HTTPException(422, "Give a row, or a text.")


async def chosen_method(bench: Workbench, asked: Asked) -> str:
    """Return the first method that is asked for, or the first there is."""
    return asked.methods[0] if asked.methods else (await methods_of(bench))[0].name


async def _ranks(bench: Workbench) -> list[int]:
    """Return the rows worth explaining: the wrong ones, of a language model all, the highest loss first."""
    found = await bench.overview()
    return found.first(len(found.corpus), "wrong")


def _held(bench: Workbench, asked: Asked) -> Example | None:
    """Return the held-out row that is asked about. Raises DataError for one that is not there."""
    if asked.row is None:
        return None
    texts = bench.held_out
    if asked.row >= len(texts):
        raise DataError(f"{texts.name} has {len(texts):,} rows: there is no row {asked.row:,} (they count from 0).")
    return texts[asked.row]


def queries_of(bench: Workbench, asked: Asked) -> tuple[Any, Any]:
    """Return the one query that is asked, as the index takes it, and the label to explain (None: what is said)."""
    held = _held(bench, asked)
    if held is None:
        return [asked.text if not asked.text_pair else (asked.text, asked.text_pair)], asked.label or None
    own = "said" if text_task(bench.index.run.task) is None else "label"
    label = held.label if (asked.explain or own) == "label" else None
    asking = before_answer(held)
    if asked.explain == "said" and asking is not None:
        return [asking], None  # the model gives its answer anew
    return bench.held_out.take([held.row]), label


def _by_place(bench: Workbench, asked: Asked, row: int) -> list[dict[str, Any]]:
    queries, label = queries_of(bench, asked)
    labels = None if label is None else [label]
    found = words_by_place(bench.index, queries, labels, row, _spans(asked))
    return [clean(pair.to_dict()) for pair in found]


def _spans(asked: Asked) -> list[tuple[int, int] | None] | None:
    return None if asked.start is None or asked.end is None else [(asked.start, asked.end)]


def _ask(bench: Workbench, asked: Asked, method: str, *, scored: bool = False) -> Any:
    """Ask the index, for an answer or for the scores of all rows (float32 [rows])."""
    queries, label = queries_of(bench, asked)
    labels = None if label is None else [label]
    chosen = Candidate.parse(method)
    given: dict[str, Any] = {"method": chosen.method, **chosen.options}
    spans = _spans(asked)
    if scored:
        return bench.index.scores(queries, labels, spans=spans, show=False, **given)[0]
    return bench.index.query(queries, labels, asked.k, spans=spans, show=False, **given)
