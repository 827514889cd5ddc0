"""How well could anyone do? A bank's own noise between seeds bounds every LDS that is measured on it.

A query's loss on subset j with seed s is signal(j) + noise(j, s). Two halves of the seeds share the signal only:

    half(q)        = corr over subsets ( mean of one half of the seeds, mean of the other ),  mean over the splits
    reliability(q) = n half / (1 + (n - 1) half),   n = seeds / seeds of a half    (Spearman 1910, Brown 1910)
    highest(q)     = sqrt(reliability(q))           correlation of the true signal with the mean over all seeds

No method can foretell noise, so the true signal itself scores `highest` and no better, by expectation. LDS correlates
ranks: rank correlations of the halves become Pearson's by r = 2 sin(pi rho / 6), and the ceiling becomes a rank
correlation again, both as for normal variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked
from headwater.evaluation.metrics.bootstrap import Interval, interval_of
from headwater.evaluation.metrics.correlation import pearson, spearman

Kind = Literal["spearman", "pearson"]
_SPLITS = 128  # at most; their mean changes little after a few


@dataclass(frozen=True)
class Ceiling:
    """Reliability of a bank, and the highest LDS that it can show; numbers a query are NaN where nothing varies."""

    halves: Float64[np.ndarray, " queries"]
    """Correlation between halves of the seeds; by chance it may be below 0."""
    reliability: Float64[np.ndarray, " queries"]
    """Of the mean over all seeds, as Pearson's correlation between two such means."""
    highest: Float64[np.ndarray, " queries"]
    """From 0 to 1. Of a single query it is a rough estimate: its halves have one number a subset."""
    mean_reliability: float
    """Of the mean of `halves` over queries."""
    mean: Interval
    """Highest mean LDS: from the mean of `halves`, whose noise averages out. Where queries differ in reliability it is
    a little above the mean of their ceilings, never below. The interval speaks of other queries on the same bank."""
    subsets: int
    seeds: int
    kind: Kind

    def to_dict(self) -> dict[str, Any]:
        """The numbers that stand beside an LDS, as JSON holds them; None stands for NaN."""
        named = {
            "highest": self.mean.value,
            "low": self.mean.low,
            "high": self.mean.high,
            "reliability": self.mean_reliability,
        }
        told: dict[str, Any] = {name: None if np.isnan(value) else float(value) for name, value in named.items()}
        counts = {"queries": self.mean.queries, "left_out": self.mean.left_out, "subsets": self.subsets}
        return told | counts | {"seeds": self.seeds, "kind": self.kind}


def ceiling(outputs: Float[np.ndarray, "subsets seeds queries"], *, kind: Kind = "spearman", seed: int = 0) -> Ceiling:
    """Measure a bank's noise. `outputs` are losses, margins or probabilities, whichever the LDS is measured with.

    `seed` draws the bootstrap over queries, and which splits are taken where there are very many. Raises UsageError
    for fewer than 2 seeds (one says nothing of its noise) or fewer than 3 subsets.
    """
    outputs = checked("outputs", outputs, "subsets seeds queries").astype(np.float64)
    subsets, seeds, _ = outputs.shape
    if kind not in ("spearman", "pearson"):
        raise UsageError(f"kind {kind!r} is not one of spearman, pearson.")
    if seeds < 2:
        raise UsageError("one seed a subset does not tell signal from noise: retrain with two or more.")
    if subsets < 3:
        raise UsageError(f"a ceiling needs at least 3 subsets, not {subsets}.")
    values = outputs.transpose(1, 2, 0)  # [seeds, queries, subsets]
    correlate = spearman if kind == "spearman" else pearson
    splits = [correlate(values[one].mean(axis=0), values[other].mean(axis=0)) for one, other in _splits(seeds, seed)]
    halves = np.asarray(np.mean(splits, axis=0))
    longer = seeds / (seeds // 2)
    reliability = _lengthened(halves, longer, kind)
    known = halves[~np.isnan(halves)]
    mean = Interval(np.nan, np.nan, np.nan, 0)
    if len(known):
        mean = interval_of(len(known), lambda at: float(_highest(known[at].mean(), longer, kind)), seed=seed)
    return Ceiling(
        halves=halves,
        reliability=reliability,
        highest=_highest(halves, longer, kind),
        mean_reliability=float(_lengthened(known.mean(), longer, kind)) if len(known) else np.nan,
        mean=Interval(mean.value, mean.low, mean.high, len(known), len(halves) - len(known)),
        subsets=subsets,
        seeds=seeds,
        kind=kind,
    )


def _lengthened(half: Any, longer: float, kind: Kind) -> Any:
    """Spearman and Brown: the reliability of a mean over `longer` times as many seeds, as Pearson's correlation."""
    r = 2 * np.sin(np.pi * half / 6) if kind == "spearman" else half
    r = np.maximum(r, -1 / longer)  # below, the formula has a pole: chance alone gets there
    return longer * r / (1 + (longer - 1) * r)


def _highest(half: Any, longer: float, kind: Kind) -> Any:
    r = np.sqrt(np.clip(_lengthened(half, longer, kind), 0.0, 1.0))
    return 6 / np.pi * np.arcsin(r / 2) if kind == "spearman" else r


def _splits(seeds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of equal halves of the seeds; of an odd number, each one stays out in turn."""
    most = 50 * _SPLITS
    found = list(islice(_all_splits(seeds), most))
    if len(found) == most:  # too many to list: random ones
        generator = np.random.default_rng(seed)
        half = seeds // 2
        drawn = [generator.permutation(seeds).tolist() for _ in range(_SPLITS)]
        return [(order[:half], order[half : 2 * half]) for order in drawn]
    if len(found) <= _SPLITS:
        return found
    chosen = np.random.default_rng(seed).choice(len(found), _SPLITS, replace=False)
    return [found[number] for number in sorted(chosen)]


def _all_splits(seeds: int) -> Iterator[tuple[list[int], list[int]]]:
    half = seeds // 2
    for out in [None] if seeds % 2 == 0 else range(seeds):
        first, *others = [number for number in range(seeds) if number != out]
        for mates in combinations(others, half - 1):
            yield [first, *mates], [number for number in others if number not in mates]
