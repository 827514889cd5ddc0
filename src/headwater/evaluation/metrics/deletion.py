"""Deletion curves (Yeh et al. 2022, arXiv 2202.11844): retrain without the rows that a method names, and look.

    DEL+(q, k) = E[ f(q; retrained without the k highest-scored rows) ] - E[ f(q; trained on all) ]   good: negative
    DEL-(q, k) = the same without the k lowest-scored rows                                            good: positive
    AUC-DEL+/-(q) = mean over the grid of k;  then the mean over queries

E is over the seeds of retraining. f is the probability of the query's label, or its logit (a bank's margin, log(p / (1
- p)), which knows no other class' offset): the paper leaves open which, so report both, by two calls. Removing anything
changes f a little: `random_plan` removes as many random rows, the same for all queries, as the control.

`plan` says what to retrain before anything is; `gather` finds each point's values among what was retrained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length
from headwater.evaluation.metrics.bootstrap import Interval, difference
from headwater.evaluation.metrics.ranking import top_rows

GRID = tuple(range(10, 101, 10))
"""The paper's follow-up code removes 10, 20, ..., 100 rows."""


@dataclass(frozen=True)
class Plan:
    """Which row sets must be retrained without, each once, and where each point of each curve finds its own."""

    removals: tuple[tuple[int, ...], ...]
    """Distinct row sets, ascending inside; in the order in which they were first needed."""
    grid: tuple[int, ...]
    of: Int64[np.ndarray, "curves k"]
    """Number of the row set, for each curve (a query, or a draw of random rows) and each k."""


def plan(
    scores: Float[np.ndarray, "queries rows"], *, grid: Sequence[int] = GRID, opponents: bool = False, seed: int = 0
) -> Plan:
    """Plan DEL+ (or, with `opponents`, DEL-): for each query and each k, its k highest (lowest) rows.

    Rows count whatever their sign; equal scores stand in a shuffled order (`ranking.top_rows`), so that a method
    without an opinion removes random rows. Raises UsageError for a grid that is not ascending from 1 to below the
    number of rows.
    """
    scores = checked("scores", scores, "queries rows")
    sizes = _checked_grid(grid, scores.shape[1])
    return _planned(top_rows(scores, sizes[-1], lowest=opponents, seed=seed), sizes)


def random_plan(rows: int, draws: int, *, grid: Sequence[int] = GRID, seed: int = 0) -> Plan:
    """Plan the control: `draws` nested random removals out of `rows`, which serve every query. Raises UsageError."""
    sizes = _checked_grid(grid, rows)
    if draws < 1:
        raise UsageError("the control needs at least one draw.")
    generator = np.random.default_rng(seed)
    return _planned(np.stack([generator.permutation(rows)[: sizes[-1]] for _ in range(draws)]), sizes)


def together(plans: Iterable[Plan]) -> tuple[tuple[int, ...], ...]:
    """Every row set that any of these plans needs, once: what a bank must hold to grade all of them."""
    return tuple(dict.fromkeys(removal for one in plans for removal in one.removals))


def gather(
    made: Plan, outputs: Float[np.ndarray, "sets seeds queries"], *, sets: Sequence[tuple[int, ...]] | None = None
) -> Float[np.ndarray, "queries k seeds"]:
    """Take the outputs of each query's own row sets.

    `outputs` are of the row sets `sets` (ascending inside; None: `made.removals`), in that order. Raises UsageError
    where a row set is missing or the plan has other queries.
    """
    outputs = np.asarray(outputs)
    at = made.of if sets is None else _numbers(made, sets)[made.of]
    same_length(sets=len(made.removals if sets is None else sets), outputs=len(outputs))
    same_length(plan=len(made.of), queries=outputs.shape[2])
    return outputs[at, :, np.arange(len(at))[:, None]]


def gather_random(
    made: Plan, outputs: Float[np.ndarray, "sets seeds queries"], *, sets: Sequence[tuple[int, ...]] | None = None
) -> Float[np.ndarray, "queries k retrains"]:
    """The same of a `random_plan`: every query looks at every draw, so that retrains are draws times seeds."""
    outputs = np.asarray(outputs)
    at = made.of if sets is None else _numbers(made, sets)[made.of]
    same_length(sets=len(made.removals if sets is None else sets), outputs=len(outputs))
    found = outputs[at]  # [draws, k, seeds, queries]
    return np.asarray(found.transpose(3, 1, 0, 2).reshape(outputs.shape[2], len(made.grid), -1))


def curves(
    values: Float[np.ndarray, "queries k retrains"], baseline: Float[np.ndarray, " queries"]
) -> Float64[np.ndarray, "queries k"]:
    """DEL at each k: the mean over retrains minus `baseline`, the mean over models trained on all rows.

    NaN stands for a retraining that was not done: the point it belongs to is NaN. Infinity is refused (UsageError).
    """
    values, baseline = np.asarray(values, dtype=np.float64), checked("baseline", baseline, "queries")
    if values.ndim != 3 or not values.shape[2]:
        raise UsageError(f"values must be [queries, k, retrains], at least one retrain, not {list(values.shape)}.")
    same_length(values=len(values), baseline=len(baseline))
    if np.isinf(values).any():
        raise UsageError("values hold an infinity: clip probabilities before they become logits.")
    return np.asarray(values.mean(axis=2) - baseline.astype(np.float64)[:, None])


def auc(found: Float[np.ndarray, "queries k"]) -> Float64[np.ndarray, " queries"]:
    """AUC-DEL of each query: the plain mean over the grid; NaN where a point is missing."""
    return np.asarray(np.asarray(found, dtype=np.float64).mean(axis=1))


def against_random(
    found: Float[np.ndarray, "queries k"], control: Float[np.ndarray, "queries k"], *, seed: int = 0
) -> Interval:
    """AUC-DEL beyond that of as many random rows, query by query, with its interval."""
    return difference(auc(found), auc(control), seed=seed)


def _planned(order: Int64[np.ndarray, "curves most"], grid: tuple[int, ...]) -> Plan:
    numbers: dict[tuple[int, ...], int] = {}
    of = np.empty((len(order), len(grid)), dtype=np.int64)
    for curve, rows in enumerate(order):
        for point, k in enumerate(grid):
            removal = tuple(np.sort(rows[:k]).tolist())
            of[curve, point] = numbers.setdefault(removal, len(numbers))
    return Plan(tuple(numbers), grid, of)


def _checked_grid(grid: Sequence[int], rows: int) -> tuple[int, ...]:
    sizes = tuple(int(k) for k in grid)
    if not sizes or sizes[0] < 1 or sizes[-1] >= rows or list(sizes) != sorted(set(sizes)):
        raise UsageError(f"the grid of k must ascend from at least 1 to less than {rows:,} (the rows), not {sizes}.")
    return sizes


def _numbers(made: Plan, sets: Sequence[tuple[int, ...]]) -> Int64[np.ndarray, " removals"]:
    known = {tuple(rows): number for number, rows in enumerate(sets)}
    missing = [removal for removal in made.removals if removal not in known]
    if missing:
        raise UsageError(f"{len(missing):,} of {len(made.removals):,} row sets were not retrained without.")
    return np.array([known[removal] for removal in made.removals], dtype=np.int64)
