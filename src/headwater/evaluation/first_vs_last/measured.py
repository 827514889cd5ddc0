"""One measured quantity: a value for every candidate, and paired differences between some."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from headwater.evaluation.first_vs_last.settings import Embeddings
from headwater.evaluation.metrics.bootstrap import LEVEL, Interval, difference, interval

Pair = tuple[str, str]
Better = Literal["higher", "lower"]
Statistic = Callable[[Float64[np.ndarray, "draws queries"]], Float64[np.ndarray, " draws"]]
"""A number for each line of counts: how often each query was drawn."""
DRAWS_OF_STATISTICS = 400


@dataclass(frozen=True)
class Measured:
    """A metric on one training, with the word embeddings trained or frozen."""

    embeddings: Embeddings
    protocol: str
    """lds, deletion, noise or filtering."""
    metric: str
    better: Better
    about: str
    how: str
    """What was retrained, removed and asked: values of different ones must not be compared."""
    values: Mapping[str, Interval]
    """By candidate, or by candidate and aggregation ("tracin last, vote")."""
    differences: Mapping[Pair, Interval] = field(default_factory=dict)
    """The first minus the second, paired."""
    ceiling: float | None = None

    def verdict(self, pair: Pair) -> str:
        """Which of two is better, by the interval of their paired difference."""
        found = self.differences[pair]
        if math.isnan(found.low) or found.low <= 0 <= found.high:
            return "no difference shown"
        return pair[0 if (found.value > 0) == (self.better == "higher") else 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None stands for what is not known."""
        pairs = [
            {"one": pair[0], "other": pair[1], **plain(found), "better": self.verdict(pair)}
            for pair, found in self.differences.items()
        ]
        return {
            "embeddings": self.embeddings,
            "protocol": self.protocol,
            "metric": self.metric,
            "better": self.better,
            "about": self.about,
            "how": self.how,
            "ceiling": self.ceiling,
            "values": {label: plain(found) for label, found in self.values.items()},
            "differences": pairs,
        }


def plain(found: Interval) -> dict[str, Any]:
    """An interval as JSON holds it."""
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if math.isnan(value) else float(value) for name, value in numbers.items()} | {
        "units": found.queries
    }


def of_units(
    units: Mapping[str, Float64[np.ndarray, " units"]], pairs: Sequence[Pair], *, seed: int
) -> tuple[dict[str, Interval], dict[Pair, Interval]]:
    """Means over units (queries, test rows) and paired differences of them."""
    values = {label: interval(each, seed=seed) for label, each in units.items()}
    known = [pair for pair in pairs if pair[0] in units and pair[1] in units]
    return values, {pair: difference(units[pair[0]], units[pair[1]], seed=seed) for pair in known}


def of_statistics(
    statistics: Mapping[str, Statistic], queries: int, pairs: Sequence[Pair], *, seed: int
) -> tuple[dict[str, Interval], dict[Pair, Interval]]:
    """Numbers that are no means over queries, and their paired differences: the same draws of queries for all."""
    drawn = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), size=DRAWS_OF_STATISTICS)
    counts = np.concatenate([np.ones((1, queries)), drawn.astype(np.float64)])  # the first is the value itself
    found = {label: statistic(counts) for label, statistic in statistics.items()}
    known = [pair for pair in pairs if pair[0] in found and pair[1] in found]
    values = {label: _of_draws(each, queries) for label, each in found.items()}
    return values, {pair: _of_draws(found[pair[0]] - found[pair[1]], queries) for pair in known}


def _of_draws(found: Float64[np.ndarray, " draws+1"], queries: int) -> Interval:
    if queries < 2:
        return Interval(float(found[0]), math.nan, math.nan, queries)
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(found[0]), float(low), float(high), queries)
