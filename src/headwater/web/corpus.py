"""Corpus: the training rows, filtered, sorted and paged by the URL alone; and a page for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from jaxtyping import Float32, Int64
from pydantic import BaseModel, Field

from headwater.attribution.corpus_table import CorpusTable, corpus_table
from headwater.attribution.index import Index
from headwater.attribution.named_rows import words_between
from headwater.errors import DataError
from headwater.remedies.decisions import mendable
from headwater.remedies.spelling import class_labels
from headwater.runs import Corpus, shown_texts
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.state import Bench, Typed, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

ROWS = 50  # of a page
QUERIES = 200  # held-out rows that a row is compared with
_MOST = 5  # queries that it helps, and hurts
_WORDS = 6

Number = Annotated[int, Path(ge=0, le=1 << 53)]


class Shown(BaseModel):
    """Which rows are shown, and in which order."""

    model_config = {"extra": "forbid"}

    label: Annotated[Typed, Field(max_length=1000)] = ""
    """Only rows of this label."""
    text: Annotated[Typed, Field(max_length=1000)] = ""
    """Only rows that hold this, in whatever case."""
    sort: Literal["row", "-row", "self", "-self", "same", "-same", "hubs", "-hubs"] = "-self"
    at: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    """The page, from 1."""

    def url(self, **changes: Any) -> str:
        """Return the address of the page with some settings changed; settings at their defaults are left out."""
        kept = {**self.model_dump(), "at": 1, **changes}
        defaults = Shown().model_dump()
        rest = urlencode([(name, value) for name, value in kept.items() if value != defaults[name]])
        return "/corpus" + ("?" + rest if rest else "")


@dataclass(frozen=True)
class Row:
    """One training row as it is listed; `row` counts from 0. None: not known."""

    row: int
    texts: tuple[str, ...]
    label: str | None
    self_influence: float | None
    same: float | None
    hubs: int | None


@dataclass(frozen=True)
class Touched:
    """A held-out row that a training row helps or hurts."""

    row: int
    text: str
    label: str | None
    score: float


@dataclass(frozen=True)
class Known:
    """What a row's own page tells."""

    row: Row
    place: float | None
    """The share of rows whose self-influence is not larger."""
    nearest: tuple[tuple[Row, float], ...]
    helps: tuple[Touched, ...]
    hurts: tuple[Touched, ...]
    words: tuple[tuple[str, str, float], ...]
    """Of the query that it moves most: word of the row, word of the query, score."""
    asked: int


@router.get("/corpus", response_class=HTMLResponse, include_in_schema=False)
async def corpus(request: Request, bench: Bench, shown: Annotated[Shown, Query()]) -> HTMLResponse:
    """Show the training rows."""
    table = await _table(bench)
    rows = choose(bench.index, table, shown)
    here = rows[(shown.at - 1) * ROWS : shown.at * ROWS]
    return page(
        request,
        "corpus.html.j2",
        here="/corpus",
        shown=shown,
        rows=[_row(bench.index, table, int(row)) for row in here],
        count=len(rows),
        pages=max(1, -(-len(rows) // ROWS)),
        labels=class_labels(bench.index.run),
        table=table,
        corpus=bench.index.corpus,
    )


@router.get("/api/corpus", tags=["corpus"], responses=REFUSED)
async def list_corpus(bench: Bench, shown: Annotated[Shown, Query()]) -> Mapping[str, Any]:
    """List the training rows: self-influence, share of the ten nearest rows with the same label, hub count."""
    table = await _table(bench)
    rows = choose(bench.index, table, shown)
    here = rows[(shown.at - 1) * ROWS : shown.at * ROWS]
    found = [vars(_row(bench.index, table, int(row))) for row in here]
    return {"count": len(rows), "rows": found, "notes": list(table.notes)}


@router.get("/corpus/{row}", response_class=HTMLResponse, include_in_schema=False)
async def corpus_row(request: Request, bench: Bench, row: Number) -> HTMLResponse:
    """Show one training row: whom it helps and hurts, its words, its neighbours."""
    known, run = await _known(bench, row), bench.index.run
    return page(
        request,
        "row.html.j2",
        here="/corpus",
        known=known,
        rows=len(bench.index),
        labels=class_labels(run),
        mendable=mendable(run, row),
    )


@router.get("/api/corpus/{row}", tags=["corpus"], responses=REFUSED)
async def one_row(bench: Bench, row: Number) -> Mapping[str, Any]:
    """One training row: the held-out rows that it helps and hurts, its words, its nearest rows."""
    known = await _known(bench, row)
    return {
        **vars(known),
        "row": vars(known.row),
        "nearest": [{**vars(other), "cosine": cosine} for other, cosine in known.nearest],
        "helps": [vars(each) for each in known.helps],
        "hurts": [vars(each) for each in known.hurts],
        "words": [{"train": one, "query": two, "score": score} for one, two, score in known.words],
    }


def choose(index: Index, table: CorpusTable, shown: Shown) -> Int64[np.ndarray, " rows"]:
    """Return the rows that are wanted, in the order that is wanted; equals, and what is not known, by row."""
    rows = index.corpus
    keep = np.ones(len(rows), dtype=bool)
    if shown.label or shown.text:
        wanted = shown.text.casefold()
        for number, example in enumerate(rows):
            held = any(wanted in text.casefold() for text in shown_texts(index.run.task, example)) if wanted else True
            keep[number] = held and (not shown.label or str(example.label) == shown.label)
    found = np.flatnonzero(keep)
    name = shown.sort.removeprefix("-")
    values = {"self": table.self_influence, "same": table.same, "hubs": table.hubs, "row": np.arange(len(rows))}[name]
    if values is None:
        return found
    sign = -1 if shown.sort.startswith("-") else 1
    return found[np.argsort(sign * values[found], kind="stable")]


async def _table(bench: Workbench) -> CorpusTable:
    return await bench.once("corpus", lambda: corpus_table(bench.index, show=False))


async def _known(bench: Workbench, row: int) -> Known:
    rows = bench.index.corpus
    if row >= len(rows):
        raise DataError(f"{rows.name} has {len(rows):,} rows: there is no row {row:,} (they count from 0).")
    table = await _table(bench)
    place = None
    if table.self_influence is not None:
        place = float((table.self_influence <= table.self_influence[row]).mean())
    near: tuple[tuple[Row, float], ...] = ()
    if table.near is not None and table.cosines is not None:
        near = tuple(
            (_row(bench.index, table, int(other)), float(cosine))
            for other, cosine in zip(table.near[row], table.cosines[row], strict=True)
        )
    helps: tuple[Touched, ...] = ()
    hurts: tuple[Touched, ...] = ()
    words: tuple[tuple[str, str, float], ...] = ()
    asked = 0
    if bench.queries is not None and bench.index.token_store is not None:
        scores = await bench.once("scores", lambda: _scores(bench))
        asked = len(scores)
        column = scores[:, row]
        order = np.argsort(-column, kind="stable")
        helps = tuple(_touched(bench, int(each), column) for each in order[:_MOST] if column[each] > 0)
        hurts = tuple(_touched(bench, int(each), column) for each in order[::-1][:_MOST] if column[each] < 0)
        most = int(np.argmax(np.abs(column)))
        words = await bench.once(("words", row), lambda: _words(bench, row, sample_of_queries(bench)[0][most]))
    return Known(_row(bench.index, table, row), place, near, helps, hurts, words, asked)


def sample_of_queries(bench: Workbench) -> tuple[list[int], Corpus]:
    """Return the held-out rows that training rows are compared with: all, or as many as are drawn."""
    count = len(bench.held_out)
    if count <= QUERIES:
        return list(range(count)), bench.held_out
    rows = sorted(int(row) for row in np.random.default_rng(0).choice(count, QUERIES, replace=False))
    return rows, bench.held_out.take(rows)


def _scores(bench: Workbench) -> Float32[np.ndarray, "queries rows"]:
    _, texts = sample_of_queries(bench)
    return np.asarray(bench.index.scores(texts, _known_labels(texts), show=False))


def _known_labels(texts: Corpus) -> list[str | int]:
    """The label of each; an empty one explains a plain text as a whole."""
    return ["" if example.label is None else example.label for example in texts]


def _words(bench: Workbench, row: int, query: int) -> tuple[tuple[str, str, float], ...]:
    asked = bench.held_out.take([query])
    told = words_between(bench.index, asked, _known_labels(asked), [[row]])
    pairs = sorted((pair for each in told.values() for pair in each if not pair.special), key=lambda p: -abs(p.score))
    return tuple((str(pair.train), str(pair.query), float(pair.score)) for pair in pairs[:_WORDS])


def _touched(bench: Workbench, place: int, column: Float32[np.ndarray, " queries"]) -> Touched:
    row = sample_of_queries(bench)[0][place]
    example = bench.index.run.task.shown(bench.held_out[row])
    return Touched(row, example.text, None if example.label is None else str(example.label), float(column[place]))


def _row(index: Index, table: CorpusTable, row: int) -> Row:
    example = index.corpus[row]
    label = example.label
    return Row(
        row,
        shown_texts(index.run.task, example),
        None if label is None else str(label),
        None if table.self_influence is None else float(table.self_influence[row]),
        None if table.same is None else float(table.same[row]),
        None if table.hubs is None else int(table.hubs[row]),
    )
