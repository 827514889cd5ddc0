"""Linear datamodeling score (Park et al. 2023, TRAK, arXiv 2303.14186): do sums of scores foretell retrainings?

    LDS(q) = Spearman over subsets j ( sum of score(q, i) over the rows i of subset j,
                                       mean over seeds of f(q; trained on subset j) )
    LDS    = mean over queries

f is what training on a proponent raises: the negated loss, the margin log(p / (1 - p)), or the probability. So 1 is the
best, 0 is chance, and a negated method gets the negative. Subsets of half the rows and subsets that leave k rows out
give different values for the same method, and so do other numbers of subsets and seeds: `protocol` says which it was.
f is measured with the noise of retraining, which no method can foretell: `noise_corrected` divides by the highest value
that this bank lets anyone reach.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length
from headwater.evaluation.metrics.bootstrap import Interval
from headwater.evaluation.metrics.correlation import merged_ties, spearman

Measure = Literal["loss", "margin", "probability"]
_SIGNS = {"loss": -1.0, "margin": 1.0, "probability": 1.0}
_ROUNDING = 1e-12  # of the sum of all |scores|: float64 sums in another order differ by less
_ROWS = 4_096  # added up at a time, in float64


def lds(
    scores: Float[np.ndarray, "queries rows"],
    masks: Bool[np.ndarray, "subsets rows"],
    outputs: Float[np.ndarray, "subsets seeds queries"],
    *,
    measure: Measure = "loss",
) -> Float64[np.ndarray, " queries"]:
    """LDS of each query. `masks` are True for the rows of a subset; `outputs` hold what `measure` names.

    NaN for a query whose outputs are the same for all subsets: it grades nobody, and is left out for every method
    alike. A query whose sums of scores are all the same counts 0: the method said nothing, which is no reason to
    leave it out. Raises UsageError for fewer than 2 subsets, shapes that do not fit, or numbers that are none.
    """
    outputs = checked("outputs", outputs, "subsets seeds queries")
    if measure not in _SIGNS:
        raise UsageError(f"measure {measure!r} is not one of {', '.join(_SIGNS)}.")
    foretold = subset_sums(scores, masks)
    if len(foretold) < 2:
        raise UsageError("a rank correlation needs at least 2 subsets.")
    same_length(masks=foretold.shape[0], outputs=outputs.shape[0])
    same_length(scores=foretold.shape[1], outputs=outputs.shape[2])
    actual = (_SIGNS[measure] * outputs.mean(axis=1, dtype=np.float64)).T  # [q, s]
    found = spearman(_without_rounding(foretold, scores), actual)
    silent = np.isnan(found) & (np.ptp(actual, axis=1) > 0)
    return np.asarray(np.where(silent, 0.0, found))


def subset_sums(
    scores: Float[np.ndarray, "queries rows"], masks: Bool[np.ndarray, "subsets rows"]
) -> Float64[np.ndarray, "subsets queries"]:
    """What a method foretells of each subset: the sum of its rows' scores. Raises UsageError."""
    scores, masks = checked("scores", scores, "queries rows"), checked("masks", masks, "subsets rows")
    if masks.dtype != np.bool_:
        raise UsageError(f"masks must be bool (is the row in the subset?), not {masks.dtype}.")
    same_length(scores=scores.shape[1], masks=masks.shape[1])
    sums = np.zeros((len(masks), len(scores)), dtype=np.float64)
    for start in range(0, masks.shape[1], _ROWS):
        stop = start + _ROWS
        sums += masks[:, start:stop].astype(np.float64) @ scores[:, start:stop].astype(np.float64).T
    return sums


def noise_corrected(found: Interval, ceiling: float) -> Interval:
    """Divide an LDS and its interval by the highest that the bank's noise lets anyone reach (between 0 and 1).

    The ceiling is taken as known: its own uncertainty is not in the interval. NaN where it is not above 0: then the
    retrainings agree on nothing and grade nobody. May come out above 1, by chance or for an ensemble of many seeds.
    """
    share = float(ceiling) if ceiling > 0 else np.nan
    return replace(found, value=found.value / share, low=found.low / share, high=found.high / share)


def protocol(masks: Bool[np.ndarray, "subsets rows"], seeds: int) -> str:
    """What was retrained, in words: LDS values of different protocols must not be compared."""
    masks = checked("masks", masks, "subsets rows")
    count, rows = masks.shape
    sizes = np.unique(masks.sum(axis=1))
    plan = f"{count:,} subsets, {seeds} seed{'s' if seeds != 1 else ''} each"
    if len(sizes) > 1:
        return f"{sizes[0]:,} to {sizes[-1]:,} of {rows:,} rows kept; {plan}"
    kept = int(sizes[0])
    if kept * 4 > rows * 3:
        return f"leave-{rows - kept:,}-out of {rows:,} rows; {plan}"
    return f"{kept:,} of {rows:,} rows kept ({kept / rows:.0%}); {plan}"


def _without_rounding(foretold: Float64[np.ndarray, "subsets queries"], scores: Any) -> Float64[np.ndarray, "q s"]:
    """Queries first, with subsets tied whose sums differ by rounding alone."""
    sizes = np.abs(scores).sum(axis=1, dtype=np.float64)
    return np.stack([merged_ties(row, _ROUNDING * size) for row, size in zip(foretold.T, sizes, strict=True)])
