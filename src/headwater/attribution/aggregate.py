"""From many columns of scores to one number a training row.

A column is the scores of all N rows with one query, over one layer and checkpoint or over several.

    mean   the mean of the columns
    rank   the mean rank of the row in a column, 0 the lowest (equal scores share their mean rank)
    vote   - sum over columns of max(K - rank, 0),   K = round(share N)

Rows that stand low are harmful to the queries as a whole: noise. Source: Vitel & Chhabra 2026, First is Not Really
Better Than Last (arXiv 2511.04715), section 4 and its official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64
from scipy.stats import rankdata

from headwater.attribution.living import prepared
from headwater.attribution.question import AskedQuestion
from headwater.errors import UsageError

Aggregation = Literal["mean", "rank", "vote"]
Over = Literal["layers", "checkpoints"]


class Columns:
    """Adds columns of scores up, in float64; memory does not grow with their number."""

    def __init__(self, how: Aggregation, share: float, rows: int) -> None:
        if how not in get_args(Aggregation):
            raise UsageError(f"how must be one of {', '.join(get_args(Aggregation))}; it is {how!r}.")
        if not 0 < share <= 1:
            raise UsageError(
                f"share is a part of the rows that is voted against, above 0 and at most 1; it is {share}."
            )
        self._how = how
        self._against = max(round(share * rows), 1)
        self._sums = np.zeros(rows)
        self._count = 0

    def add(self, scores: Float32[np.ndarray, "columns rows"]) -> None:
        """Add columns, one a query."""
        self._count += len(scores)
        for column in scores:
            self._sums += self.of(column)

    def of(self, column: Float32[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
        """What one column adds."""
        if self._how == "mean":
            return column.astype(np.float64)
        ranks = np.asarray(rankdata(column) - 1)
        return ranks if self._how == "rank" else -np.maximum(self._against - ranks, 0)

    def result(self) -> Float64[np.ndarray, "rows"]:
        """Return one number a row: the mean of the columns, the mean rank, or the sum of the votes."""
        return self._sums if self._how == "vote" else self._sums / max(self._count, 1)


def aggregate_question(question: AskedQuestion, options: Any, over: Sequence[Over], columns: Columns) -> None:
    """Score the queries over every combination of what `over` takes apart, and add the columns.

    Raises UsageError where the method has no such parts.
    """
    known = {entry.name for entry in fields(options)}
    for name in over:
        if name not in get_args(Over):
            raise UsageError(f"over takes {' and '.join(get_args(Over))} apart; {name!r} is neither.")
        if name not in known:
            raise UsageError(f"{question.method.name} has no {name} to take apart.")
    layers: Sequence[Any] = [None]
    if "layers" in over:
        layers = question.layer_names(options)
    checkpoints: Sequence[Any] = [None]
    if "checkpoints" in over:
        checkpoints = [(name,) for name in options.checkpoints or question.checkpoint_names(options)]
    for layer, checkpoint in product(layers, checkpoints):
        given = {name: value for name, value in (("layers", layer), ("checkpoints", checkpoint)) if value is not None}
        _add(question, prepared(question, replace(options, **given)), columns)


def _add(question: AskedQuestion, scorer: Any, columns: Columns) -> None:
    scores = np.zeros((len(question.asked), len(question.corpus)), dtype=np.float32)
    scorer.score(scores)
    columns.add(scores)
