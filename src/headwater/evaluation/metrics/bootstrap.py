"""How far a mean over queries may be trusted: percentile bootstrap over queries (Efron 1979).

    draw as many queries as there are, with replacement, B times; the interval is the middle 95% of the B means

It speaks of other queries of the same kind, on the same run and the same retrains: retraining anew is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import same_length

DRAWS = 10_000
LEVEL = 0.95
_AT_ONCE = 1 << 22  # numbers drawn at a time: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its interval. Without queries all three are NaN; with one, `low` and `high` are."""

    value: float
    low: float
    high: float
    queries: int
    """How many queries the mean is over."""
    left_out: int = 0
    """How many had no value."""


def interval(
    values: Float[np.ndarray, " queries"], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of one number a query. NaN (the query has none) is left out and counted; infinity is refused (UsageError).

    The same values and seed give the same interval.
    """
    values = np.asarray(values, dtype=np.float64)
    _check(values, level)
    known = values[~np.isnan(values)]
    left_out = len(values) - len(known)
    if not len(known):
        return Interval(np.nan, np.nan, np.nan, 0, left_out)
    low, high = _limits(known[:, None], draws, level, seed)[:, 0] if len(known) > 1 else (np.nan, np.nan)
    return Interval(float(known.mean()), float(low), float(high), len(known), left_out)


def difference(
    one: Float[np.ndarray, " queries"],
    other: Float[np.ndarray, " queries"],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of `one` minus `other`, query by query: paired, so that what makes a query hard for both is taken away.

    A query that either lacks is left out. An interval without 0 in it: the two methods differ.
    """
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    same_length(one=len(one), other=len(other))
    return interval(one - other, draws=draws, level=level, seed=seed)


def band(
    values: Float[np.ndarray, "queries points"], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Float64[np.ndarray, "3 points"]:
    """Mean, low and high at each point of a curve; queries with a NaN anywhere are left out, of all points alike."""
    values = np.asarray(values, dtype=np.float64)
    _check(values, level)
    known = values[~np.isnan(values).any(axis=1)]
    if len(known) < 2:
        none = np.full(values.shape[1], np.nan)
        return np.stack([known.mean(axis=0) if len(known) else none, none, none])
    return np.concatenate([known.mean(axis=0)[None], _limits(known, draws, level, seed)])


def interval_of(
    queries: int,
    statistic: Callable[[Int64[np.ndarray, " queries"]], float],
    *,
    draws: int = 1_000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """For a number that is no mean over queries: `statistic` takes query numbers (some twice, some not at all).

    It is called `draws` + 1 times. Raises UsageError where it gives no number.
    """
    if queries < 1:
        raise UsageError("an interval needs at least one query.")
    generator = np.random.default_rng(seed)
    value = float(statistic(np.arange(queries)))
    found = np.array([statistic(generator.integers(queries, size=queries)) for _ in range(draws)], dtype=np.float64)
    if not np.isfinite(value) or not np.isfinite(found).all():
        raise UsageError("the statistic gave something that is no number, so it has no interval.")
    low, high = np.quantile(found, _tails(level)) if queries > 1 else (np.nan, np.nan)
    return Interval(value, float(low), float(high), queries)


def _limits(
    known: Float64[np.ndarray, "queries points"], draws: int, level: float, seed: int
) -> Float64[np.ndarray, "2 points"]:
    means = np.concatenate([counts @ known for counts in _shares(len(known), draws, seed)])
    return np.asarray(np.quantile(means, _tails(level), axis=0))


def _shares(queries: int, draws: int, seed: int) -> Iterator[Float64[np.ndarray, "some queries"]]:
    """How large a share each query has of each drawn sample: drawing with replacement is a multinomial."""
    generator = np.random.default_rng(seed)
    block = max(1, _AT_ONCE // queries)
    for start in range(0, draws, block):
        counts = generator.multinomial(queries, np.full(queries, 1 / queries), size=min(block, draws - start))
        yield counts / queries


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _check(values: Float64[np.ndarray, "queries ..."], level: float) -> None:
    if np.isinf(values).any():
        raise UsageError("a value is infinite: its mean over queries says nothing.")
    if not 0 < level < 1:
        raise UsageError(f"level is a share, above 0 and below 1, not {level}.")
