"""Words: which training words push a label most, over all held-out rows; and a page for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from jaxtyping import Float64, Int64
from pydantic import BaseModel, Field

from headwater.attribution.word_tables import WordTable, is_kept, word_table
from headwater.errors import DataError
from headwater.web.corpus import Touched, sample_of_queries
from headwater.web.errors import REFUSED
from headwater.web.look import page
from headwater.web.state import Bench, Typed, Workbench
from headwater.web.waiting import PatientRoute

router = APIRouter(route_class=PatientRoute)

WORDS = 50  # of a page
_MOST = 12  # rows, and queries, on a word's page

Name = Annotated[Typed, Field(max_length=1000)]
Rows = Annotated[list[Annotated[int, Field(ge=0, le=1 << 53)]], Field(max_length=500)]


class Shown(BaseModel):
    """Which words are shown, and in which order."""

    model_config = {"extra": "forbid"}

    label: Name = ""
    """Pushes toward this label, in the held-out rows that carry it; "" for the model's first."""
    text: Name = ""
    """Only words that hold this, in whatever case."""
    sort: Literal["most", "push", "-push", "rows", "-rows"] = "most"
    """`most`: the strongest push either way."""
    at: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    """The page, from 1."""

    def url(self, **changes: Any) -> str:
        """Return the address of the page with some settings changed; settings at their defaults are left out."""
        kept = self.model_copy(update={"at": 1, **changes}).model_dump(exclude_defaults=True)
        return "/words" + ("?" + urlencode(kept) if kept else "")


@dataclass(frozen=True)
class Pushed:
    """A word, what it pushed a label in all, and its share of all that words pushed either way."""

    word: str
    push: float
    share: float
    rows: int

    @property
    def url(self) -> str:
        """The word's own page."""
        return "/word?" + urlencode({"word": self.word})


@dataclass(frozen=True)
class Held:
    """A training row that holds a word, and what it pushed its label's queries through it."""

    row: int
    text: str
    label: str | None
    push: float


@dataclass(frozen=True)
class Known:
    """What a word's page tells."""

    word: str
    pushes: tuple[tuple[str, float], ...]
    """Of each label."""
    rows: int
    labels: tuple[tuple[str, int], ...]
    """Labels of the rows that hold it, the commonest first."""
    strongest: tuple[Held, ...]
    queries: tuple[Touched, ...]


@router.get("/words", response_class=HTMLResponse, include_in_schema=False)
async def words(request: Request, bench: Bench, shown: Annotated[Shown, Query()]) -> HTMLResponse:
    """Show the words."""
    table = await _table(bench)
    found, label = choose(table, shown)
    here = found[(shown.at - 1) * WORDS : shown.at * WORDS]
    listed = [_pushed(table, int(word), label) for word in here]
    return page(
        request,
        "word_list.html.j2",
        here="/words",
        shown=shown,
        words=listed,
        label=table.labels[label],
        labels=[name for name in table.labels if name],
        queries=table.queries[label],
        largest=max((abs(each.push) for each in listed), default=0.0),
        special=float(table.special[label]),
        whole=float(table.whole[label]),
        count=len(found),
        pages=max(1, -(-len(found) // WORDS)),
    )


@router.get("/api/words", tags=["words"], responses=REFUSED)
async def list_words(bench: Bench, shown: Annotated[Shown, Query()]) -> Mapping[str, Any]:
    """List training words by what they push a label, summed over all rows and all held-out rows of that label."""
    table = await _table(bench)
    found, label = choose(table, shown)
    here = found[(shown.at - 1) * WORDS : shown.at * WORDS]
    return {
        "label": table.labels[label],
        "queries": table.queries[label],
        "count": len(found),
        "words": [vars(_pushed(table, int(word), label)) for word in here],
        "special_tokens": float(table.special[label]),
        "all": float(table.whole[label]),
    }


@router.get("/word", response_class=HTMLResponse, include_in_schema=False)
async def one(request: Request, bench: Bench, word: Annotated[Name, Query()]) -> HTMLResponse:
    """Show one word: what it pushes, the rows that hold it, the held-out rows that it moves most."""
    known = await _known(bench, word)
    return page(request, "word.html.j2", here="/words", known=known)


@router.get("/api/word", tags=["words"], responses=REFUSED)
async def one_word(bench: Bench, word: Annotated[Name, Query()]) -> Mapping[str, Any]:
    """One word: its push by label, the rows that hold it, the held-out rows that it moves most."""
    known = await _known(bench, word)
    strongest, queries = [vars(each) for each in known.strongest], [vars(each) for each in known.queries]
    return {**vars(known), "strongest": strongest, "queries": queries}


@router.get("/api/hubs", tags=["words"], responses=REFUSED)
async def hubs(bench: Bench, row: Annotated[Rows, Query()]) -> Mapping[str, Any]:
    """In how many lists of the held-out rows these training rows stand; `lists` is None until words were summed up."""
    if bench.index.token_store is None or bench.queries is None:
        return {"lists": None, "rows": {}}
    texts = sample_of_queries(bench)[1]
    if not (bench.knows("words") or is_kept(bench.index, texts)):
        return {"lists": None, "rows": {}}
    table = await _table(bench)
    known = [each for each in dict.fromkeys(row) if each < len(table.hubs)]
    return {"lists": sum(table.queries), "rows": {each: int(table.hubs[each]) for each in known}}


def choose(table: WordTable, shown: Shown) -> tuple[Int64[np.ndarray, " words"], int]:
    """Return the words that are wanted, in the order that is wanted, and the label's place. Raises DataError."""
    if shown.label and shown.label not in table.labels:
        raise DataError(f"the model has no label {shown.label!r}: {', '.join(table.labels)}.")
    label = table.labels.index(shown.label) if shown.label else 0
    push, rows = table.push[:, label], table.rows
    keep = np.arange(len(table.words))
    if shown.text:
        wanted = shown.text.casefold()
        keep = np.array([at for at in keep if wanted in table.words[at]], dtype=np.int64)
    values: dict[str, Float64[np.ndarray, " words"]] = {
        "most": -np.abs(push),
        "push": push,
        "-push": -push,
        "rows": rows.astype(np.float64),
        "-rows": -rows.astype(np.float64),
    }
    return keep[np.argsort(values[shown.sort][keep], kind="stable")], label


async def _table(bench: Workbench) -> WordTable:
    return await bench.once("words", lambda: word_table(bench.index, sample_of_queries(bench)[1], show=False))


async def _known(bench: Workbench, word: str) -> Known:
    table = await _table(bench)
    number = table.number(word)
    if number is None:
        raise DataError(f"no training row pushed any held-out row through the word {word!r}.")
    return await bench.once(("word", number), lambda: _told(bench, table, number))


def _told(bench: Workbench, table: WordTable, word: int) -> Known:
    corpus, where = bench.index.corpus, table.entries(word)
    rows, pushes = table.entry_rows[where], table.entry_push[where]
    most = pushes[np.arange(len(rows)), np.abs(pushes).argmax(axis=1)]
    order = np.argsort(-np.abs(most), kind="stable")[:_MOST]
    labels = Counter(_label(corpus[int(row)].label) or "" for row in rows)
    chosen, texts = sample_of_queries(bench)
    moves = table.moved(word)
    touched = [at for at in np.argsort(-np.abs(moves), kind="stable")[:_MOST] if moves[at]]
    return Known(
        table.words[word],
        tuple((name, float(push)) for name, push in zip(table.labels, table.push[word], strict=True)),
        len(rows),
        tuple(labels.most_common(8)) if bench.index.run.label2id else (),
        tuple(_held(bench, int(rows[at]), float(most[at])) for at in order),
        tuple(Touched(chosen[at], texts[at].text, _label(texts[at].label), float(moves[at])) for at in touched),
    )


def _held(bench: Workbench, row: int, push: float) -> Held:
    example = bench.index.corpus[row]
    return Held(row, example.text, _label(example.label), push)


def _label(label: str | int | None) -> str | None:
    return None if label is None else str(label)


def _pushed(table: WordTable, word: int, label: int) -> Pushed:
    push, whole = float(table.push[word, label]), float(np.abs(table.push[:, label]).sum())
    return Pushed(table.words[word], push, abs(push) / whole if whole else 0.0, int(table.rows[word]))
