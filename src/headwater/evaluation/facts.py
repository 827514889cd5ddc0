"""Fact tracing: a training row is right for a query when both have the same value in a column that names the fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from headwater.errors import DataError
from headwater.evaluation.columns import Column, Graded, graded
from headwater.evaluation.grouped import plain_values
from headwater.evaluation.metrics.retrieval import hit, precision, recall, reciprocal_rank
from headwater.evaluation.numbers import counted
from headwater.evaluation.scoring import Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.runs import Corpus


def right_rows(corpus: Corpus, queries: Corpus, column: str) -> Bool[np.ndarray, "queries rows"]:
    """Which rows state a query's fact; a missing value is equal to none.

    Raises DataError where either lacks the column, or no query has a right row.
    """
    stated: dict[object, list[int]] = {}
    for row, value in enumerate(plain_values(corpus, column)):
        if value is not None:
            stated.setdefault(value, []).append(row)
    right = np.zeros((len(queries), len(corpus)), dtype=np.bool_)
    for query, value in enumerate(plain_values(queries, column)):
        right[query, stated.get(value, [])] = True
    if not right.any():
        kinds = " and ".join(dict.fromkeys(str(one.table.column(column).type) for one in (corpus, queries)))
        raise DataError(f"{queries.name}, column {column!r}: no query has a value that a training row has ({kinds}).")
    return right


def fact_columns(
    scored: Sequence[Scored], right: Bool[np.ndarray, "queries rows"], settings: EvaluateSettings
) -> list[Graded]:
    """MRR, and hits, recall and precision among the first k."""
    queries, rows = right.shape
    k = min(settings.k, rows)
    known = right.any(axis=1)
    each = right[known].sum(axis=1)
    protocol = (
        f"a row is right where its {settings.fact_column!r} is the query's: {each.min():,} to {each.max():,} of "
        f"{rows:,} rows, for {int(known.sum()):,} of {counted(queries, 'query')}"
    )
    kinds: list[tuple[str, Callable[..., Any], dict[str, int], str]] = [
        ("mrr", reciprocal_rank, {}, "1 / rank of the first right row, mean over queries"),
        (f"hit@{k}", hit, {"k": k}, f"share of queries with a right row among the first {k}"),
        (f"recall@{k}", recall, {"k": k}, f"share of a query's right rows among the first {k}"),
        (f"precision@{k}", precision, {"k": k}, f"share of the first {k} rows that are right"),
    ]

    def by(measure: Callable[..., Any], given: dict[str, int]) -> Callable[[Scored], Float64[np.ndarray, " queries"]]:
        return lambda one: measure(one.scores, right, seed=settings.seed, **given)

    return [
        graded(Column(name, "facts", "higher", protocol, about), scored, by(measure, given), seed=settings.seed)
        for name, measure, given, about in kinds
    ]
