"""Which metrics there are, and what a column of the table is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.bootstrap import Interval, interval
from headwater.evaluation.result import Result
from headwater.evaluation.scoring import Scored

Need = Literal["subsets", "removals", "filter", "words", "scores", "steps", "labels", "facts", "runs"]
RETRAINED: Sequence[Need] = ("subsets", "removals", "filter", "words")
"""Needs that retraining meets."""

ALL = 1 << 30
"""The least of a metric whose units are not to be cut: all that there are."""


@dataclass(frozen=True)
class Metric:
    """A metric as it is asked for; it may fill several columns."""

    name: str
    need: Need
    """What beside the scores: retrainings on subsets; without named rows; the same, asked about test rows; without
    named words; nothing; steps of the optimizer; a column that says which labels are wrong; one that names facts; or
    other runs."""
    unit: str
    """What there is fewer of where the budget is small; "" where it costs no retrainings."""
    least: int
    summary: str


METRICS = (
    Metric("lds", "subsets", "subsets", 3, "do sums of scores foretell what retraining on random subsets gives?"),
    Metric("deletion", "removals", "queries", 1, "retrain without the top (DEL+) or bottom (DEL-) rows of each query"),
    Metric("qld", "removals", "queries", 1, "loss after retraining without the top 1%, against a random 1%"),
    Metric("leave-one-out", "removals", "rows", 3, "correlation with leaving rows out one at a time; for small data"),
    Metric("groups", "removals", "groups", 3, "correlation with leaving groups of rows out, by a column"),
    Metric("filtering", "filter", "methods", ALL, "accuracy on test rows after removing the 30% of lowest scores"),
    Metric("word-deletion", "words", "queries", 1, "retrain without the top words instead of rows"),
    Metric("ndr", "labels", "", 0, "share of the wrong labels among the lowest 30% of rows"),
    Metric("auc-ndr", "labels", "", 0, "area under that curve"),
    Metric("mislabel", "labels", "", 0, "area under the ROC curve of finding wrong labels"),
    Metric("tail-patch", "steps", "", 0, "one more training step on each top row: how much does the target rise?"),
    Metric("facts", "facts", "", 0, "mrr, hits, recall, precision of rows that state the query's fact, by a column"),
    Metric("hubness", "scores", "", 0, "different rows in the top lists, against as many random lists"),
    Metric("stability", "runs", "", 0, "rank correlation with the scores of other seeds' runs"),
)


def get_metric(name: str) -> Metric:
    """Return the metric of this name. Raises UsageError that lists the choices."""
    for metric in METRICS:
        if metric.name == name:
            return metric
    names = [metric.name for metric in METRICS]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no metric {name!r}.{hint} There are: {', '.join(names)}.")


def chosen_metrics(
    names: Sequence[str] | None, *, labels: bool, runs: bool, facts: bool = False, groups: bool = False
) -> list[Metric]:
    """The metrics of these names, each once; None: lds and hubness, and those that what was given allows."""
    if names is not None:
        if not names:
            raise UsageError("no metric named.")
        return [get_metric(name) for name in dict.fromkeys(names)]
    usual = ["lds", *(["groups"] if groups else []), *(["ndr", "auc-ndr", "mislabel"] if labels else [])]
    usual += [*(["facts"] if facts else []), "hubness", *(["stability"] if runs else [])]
    return [get_metric(name) for name in usual]


@dataclass(frozen=True)
class Column:
    """One number for each method, in the table."""

    name: str
    metric: str
    better: Literal["higher", "lower", ""]
    protocol: str
    about: str
    """What the number is, in a sentence."""
    main: bool = True
    """Whether it stands in the terminal's table; files and the page have all of them."""
    ceiling: Mapping[str, Any] | None = None
    """Of an LDS: how high anyone can get on this bank (`Ceiling.to_dict`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Graded:
    """A filled column."""

    column: Column
    results: tuple[Result, ...]
    values: Mapping[str, list[float | None]] = field(default_factory=dict)
    """By method, one number a query (None: it has none), where the result is a mean of such."""


def graded(
    column: Column,
    scored: Sequence[Scored],
    values: Callable[[Scored], Float64[np.ndarray, " queries"]],
    *,
    seed: int,
    notes: Sequence[str] = (),
) -> Graded:
    """Fill a column of means over queries."""
    found = {one.candidate.label: np.asarray(values(one), dtype=np.float64) for one in scored}
    results = tuple(result(column, one, interval(found[one.candidate.label], seed=seed), notes) for one in scored)
    plain = {label: [None if np.isnan(each) else float(each) for each in row] for label, row in found.items()}
    return Graded(column, results, plain)


def result(column: Column, one: Scored, found: Interval, notes: Sequence[str] = ()) -> Result:
    """Make a cell."""
    cost = one.cost.score_seconds
    return Result.of(column.name, one.candidate.label, found, column.protocol, seconds=cost, notes=notes)


def empty(column: Column, scored: Sequence[Scored], why: str) -> Graded:
    """A column without numbers, and why."""
    none = Interval(np.nan, np.nan, np.nan, 0)
    return Graded(column, tuple(result(column, one, none, [why]) for one in scored))
