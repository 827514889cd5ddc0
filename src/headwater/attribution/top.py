"""Which rows an answer shows: found by scoring all of them, or by a search that reads few of their vectors.

Both end with the same scores in float64, so both give the same rows in the same order. What speaks of all rows is
known after a full scan alone: the whole push, and where a filter leaves rows out, percentiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from headwater.attribution.explain import both_sides, ends
from headwater.attribution.living import LivingScorer, as_stored
from headwater.attribution.question import AskedQuestion
from headwater.attribution.where import Where
from headwater.errors import UsageError
from headwater.methods import Matched, Scorer, can_prune, is_cheaper, prune
from headwater.progress import stage
from headwater.store import LooseBoundsError, Touched, threads_for

Search = Literal["auto", "full", "pruned"]
"""How rows are found; auto takes the way that reads fewer bytes."""


@dataclass(frozen=True)
class Found:
    """The rows of one query that are to be taken apart, and what is known of its other rows."""

    rows: Int64[np.ndarray, "r"]
    near: Int64[np.ndarray, "n"]
    """Every row that scores at least as much as a proponent among `rows`, or at most as an opponent; others too."""
    values: Float64[np.ndarray, "n"] | None
    """Their scores; None: near are the rows."""
    scores: Float32[np.ndarray, "corpus"] | None
    """Of all rows; None after a pruned search."""
    filtered: bool
    """Are there rows that a filter kept out of `near`?"""
    any_shared: bool
    touched: Touched | None

    @property
    def push(self) -> float | None:
        """Return the sum of all positive scores."""
        return None if self.scores is None else float(self.scores[self.scores > 0].sum(dtype=np.float64))


def find_rows(
    question: AskedQuestion, scorer: Scorer, k: int, where: Where, allowed: Bool[np.ndarray, "rows"], search: Search
) -> Iterator[Found]:
    """Find the rows at both ends for each query. Raises UsageError for "pruned" where that cannot be."""
    if search not in get_args(Search):
        raise UsageError(f"search is one of {', '.join(get_args(Search))}; it is {search!r}.")
    bounded, stored = _bounded(scorer)
    reason = "" if bounded is not None else _unbounded(question, scorer)
    if where.collapse:
        reason = "with collapse: it needs the scores of all rows"
    if search == "pruned" and reason:
        raise UsageError(f"a pruned search is not possible {reason}. Leave search at auto.")
    if bounded is None or reason or search == "full" or (search == "auto" and not is_cheaper(bounded, k)):
        return _scanned(question, scorer, k, where, allowed)
    found = _pruned(question, scorer, bounded, stored, k, allowed, persist=search == "pruned")
    return found if search == "pruned" else _or_scanned(found, _scanned(question, scorer, k, where, allowed))


def _or_scanned(pruned: Iterator[Found], scanned: Iterator[Found]) -> Iterator[Found]:
    """Yield what a pruned search finds; from the query on where it gives up, what a full scan of all finds."""
    done = 0
    try:
        for found in pruned:
            yield found
            done += 1
    except LooseBoundsError:
        yield from islice(scanned, done, None)


def _bounded(scorer: Scorer) -> tuple[Matched | None, Int64[np.ndarray, "rows"] | None]:
    """Return the scorer whose scores can be bounded, if it is one; and of an index that grew, the rows as stored."""
    inner, stored = as_stored(scorer), scorer.stored if isinstance(scorer, LivingScorer) else None
    return (inner if isinstance(inner, Matched) and can_prune(inner) else None), stored


def _unbounded(question: AskedQuestion, scorer: Scorer) -> str:
    if isinstance(as_stored(scorer), Matched):
        return "with synonyms: they are matched row by row"
    return f"for {question.method.name}: nothing that is stored bounds its scores"


def score_all(question: AskedQuestion, scorer: Scorer) -> Float32[np.ndarray, "queries rows"]:
    """Score a block of queries with every row."""
    stage(f"scoring all {len(question.corpus):,} rows by {question.method.name}")
    scores = np.zeros((len(question.asked), len(question.corpus)), dtype=np.float32)
    with threads_for(len(scores)):
        scorer.score(scores)
    return scores


def _scanned(
    question: AskedQuestion, scorer: Scorer, k: int, where: Where, allowed: Bool[np.ndarray, "rows"]
) -> Iterator[Found]:
    scores, margins = score_all(question, scorer), scorer.rounding()
    for number, line in enumerate(scores):
        shown = where.collapsed(question.corpus, line, allowed)
        near = ends(line, shown, k, margins[number])
        rows, values = cut(scorer, number, near, k)
        yield Found(rows, near, values, line, not shown.all(), bool(line.any()), None)


def _pruned(
    question: AskedQuestion,
    scorer: Scorer,
    bounded: Matched,
    stored: Int64[np.ndarray, "rows"] | None,
    k: int,
    allowed: Bool[np.ndarray, "rows"],
    *,
    persist: bool,
) -> Iterator[Found]:
    rows_stored = bounded.parts[0].store.manifest.rows
    of = np.arange(rows_stored) if stored is None else np.full(rows_stored, -1)
    if stored is not None:
        of[stored] = np.arange(len(stored))  # stored rows that are dead stay -1
    wanted = (of >= 0) & allowed[of]
    stage(f"searching the index of {len(question.corpus):,} rows")
    for number in range(len(question.asked)):
        with threads_for(1):
            top = prune(bounded, number, k, wanted, persist=persist)
        near = np.sort(of[top.rows])
        rows, values = cut(scorer, number, near, k)
        yield Found(rows, near, values, None, not allowed.all(), top.touched.postings > 0, top.touched)


def cut(
    scorer: Scorer, number: int, near: Int64[np.ndarray, "n"], k: int
) -> tuple[Int64[np.ndarray, "r"], Float64[np.ndarray, "n"] | None]:
    """Choose the rows to take apart, which may cost a pass through the model; returns the scores it took, if any."""
    if len(near) <= 2 * k:
        return near, None
    values = scorer.exact(number, near)
    sides = both_sides(near, values, k)
    return np.sort(np.array([row for row, _ in (*sides.proponents, *sides.opponents)], np.int64)), values


def percentiles(
    found: Found, side: list[tuple[int, float]], near: Float64[np.ndarray, "n"], rows: int
) -> list[float | None]:
    """Return the share of all rows, in per cent, whose score is not larger than that of each row of one side.

    `near` are the scores of `found.near`. Rows that share nothing with the query score 0 and stand between the sides.
    """
    if not found.filtered:
        counts = [rows - np.count_nonzero(near > s) if s > 0 else np.count_nonzero(near <= s) for _, s in side]
    elif found.scores is not None:
        counts = [np.count_nonzero(found.scores <= found.scores[row]) for row, _ in side]
    else:
        return [None] * len(side)
    return [float(100 * count / rows) for count in counts]
