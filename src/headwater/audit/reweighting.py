"""Weights of rows under which no word gives a label away (after Serrano et al. 2023; the objective is ours).

    minimise over q >= 0    sum_{u,l} ( sum_{i holds u} q_i (1[y_i = l] - p(l)) )^2 / (n_u p(l) (1 - p(l)))
                            + beta * sum_i (q_i - 1)^2

The first sum is that of squared z's (up to their own scale); a feature that every row holds keeps the labels' shares.
It is convex, so what is found is the best. beta falls until every |z| is below the threshold, and no further: the
gentlest weights that will do. It stops before the effective number of rows, (sum q)^2 / sum q^2, falls below a floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int
from scipy.optimize import Bounds, minimize
from scipy.sparse import csr_array, hstack

from headwater.audit.lexical_bias import Bias, Features, bias_of, one_hot
from headwater.errors import UsageError

FLOOR = 0.5
_BETAS = tuple(10 ** (2 - step / 2) for step in range(13))  # 100 to 0.0001
_ITERATIONS = 300


@dataclass(frozen=True)
class Reweighting:
    """Weights [rows], at least 0 and of mean 1, and the biases before and under them."""

    weights: Float64[np.ndarray, " rows"]
    before: Bias
    after: Bias
    cut: bool = False
    """Whether the time was over before the search was."""

    @property
    def effective(self) -> float:
        """The effective number of rows as a share of all: 1 for equal weights."""
        q = self.weights
        return float(q.sum() ** 2 / (q @ q) / len(q))

    @property
    def balanced(self) -> bool:
        """Whether no word gives a label away any more."""
        return self.after.biased == 0


def reweigh(
    features: Features,
    targets: Int[np.ndarray, " rows"],
    *,
    floor: float = FLOOR,
    left: Callable[[], float] | None = None,
) -> Reweighting:
    """Find the weights. Where nothing is biased all are 1. Where the seconds that are `left` do not suffice, they are
    the best of those that were found.

    Raises UsageError for a floor that is not from 0 to 1.
    """
    if not 0 <= floor <= 1:
        raise UsageError(f"the floor is a share of the rows from 0 to 1; it is {floor}.")
    count = len(targets)
    before = bias_of(features, targets)
    best = Reweighting(np.ones(count), before, before)
    if not before.biased:
        return best
    problem = _Problem(features, targets)
    q = np.ones(count)
    for beta in _BETAS:
        q = problem.solve(q, beta, left)
        if left is not None and left() <= 0:
            return replace(best, cut=True)
        if q.sum() <= 0:
            break
        weights = q * (count / q.sum())
        found = Reweighting(weights, before, bias_of(features, targets, weights))
        if found.effective < floor:
            break
        if found.after.biased <= best.after.biased:
            best = found
        if best.balanced:
            break
    return best


class _Problem:
    def __init__(self, features: Features, targets: Int[np.ndarray, " rows"]) -> None:
        count = len(targets)
        self.held = csr_array(hstack([features.held, csr_array(np.ones((count, 1)))]))
        self.turned = csr_array(self.held.T)
        labels = one_hot(targets)
        shares = labels.mean(axis=0)
        self.labels = np.flatnonzero((shares > 0) & (shares < 1))
        self.off = labels[:, self.labels] - shares[self.labels]
        rows = np.asarray(self.turned @ np.ones(count))
        self.scale = 1 / (rows[:, None] * (shares * (1 - shares))[self.labels][None])

    def solve(
        self, start: Float64[np.ndarray, " rows"], beta: float, left: Callable[[], float] | None = None
    ) -> Float64[np.ndarray, " rows"]:
        def look(_: object) -> None:
            if left is not None and left() <= 0:
                raise StopIteration  # which ends the search

        def value(q: Float64[np.ndarray, " rows"]) -> tuple[float, Float64[np.ndarray, " rows"]]:
            sums = self.turned @ (q[:, None] * self.off)
            pulled = self.held @ (2 * self.scale * sums)
            gradient = (pulled * self.off).sum(axis=1) + 2 * beta * (q - 1)
            return float((self.scale * sums**2).sum() + beta * ((q - 1) ** 2).sum()), gradient

        found = minimize(
            value,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(0, np.inf),
            callback=look,
            options={"maxiter": _ITERATIONS},
        )
        return np.asarray(found.x)
