"""Accuracy after filtering: what the rows that a method finds most harmful, over all queries, did to a model.

Each method removes one set of rows, those with the lowest mean score over the queries. The models are asked about rows
that no score was made for: a method that had seen them could keep what fits them, and drop the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from headwater.evaluation.candidates import CONTROL
from headwater.evaluation.columns import Column, Graded, graded, result
from headwater.evaluation.metrics.bootstrap import Interval, difference
from headwater.evaluation.metrics.filtering import kept_rows
from headwater.evaluation.metrics.label_noise import win_rate
from headwater.evaluation.numbers import counted
from headwater.evaluation.plan import Removals, RowSet
from headwater.evaluation.removals import Seen, graded_by_lists, said_seeds
from headwater.evaluation.scoring import Scored
from headwater.evaluation.settings import EvaluateSettings

_LATE = "Not retrained without its rows in the time there was."


def filter_sets(scored: Sequence[Scored], settings: EvaluateSettings) -> Removals[RowSet]:
    """All rows and the random removals in any case; then one row set a method. Raises UsageError."""
    rows = scored[0].scores.shape[1]
    units = tuple((_removed(one, settings),) for one in graded_by_lists(scored))
    return Removals(((), *_random_sets(rows, settings)), units)


def filter_columns(scored: Sequence[Scored], seen: Seen, done: int, settings: EvaluateSettings) -> list[Graded]:
    """Accuracy of the first `done` methods and the control, beyond the control, and who wins how often."""
    right = _right(scored, seen, done, settings)
    tests = seen.found.correct.shape[2]
    rows, gone = scored[0].scores.shape[1], settings.filtered(scored[0].scores.shape[1])
    plain = float(seen.of((), seen.found.correct).mean())
    protocol = (
        f"without the {gone:,} of {rows:,} rows of lowest mean score over queries; {said_seeds(settings)}, end of the "
        f"training; {counted(tests, 'test row')}, none of them a query, over which the interval is; all rows: "
        f"{plain:.4f}; control: {counted(settings.draws, 'random removal')}; a trial of the win rate is a seed: the "
        "accuracies of two methods with the same seed are compared"
    )
    about = "right answers on test rows after retraining without the rows that the method finds most harmful"
    column = Column("accuracy", "filtering", "higher", protocol, about)
    nothing = np.full(tests, np.nan)

    def values(one: Scored) -> Float64[np.ndarray, " tests"]:
        return np.asarray(right[one.candidate.label].mean(axis=0)) if one.candidate.label in right else nothing

    made = graded(column, [one for one in scored if one.candidate.label in right], values, seed=settings.seed)
    results = {each.method: each for each in made.results}
    none = Interval(np.nan, np.nan, np.nan, 0)
    cells = [results.get(one.candidate.label) or result(column, one, none, [_LATE]) for one in scored]
    accuracy = Graded(column, tuple(cells), made.values)
    chance = right[CONTROL].mean(axis=0)
    beyond = Column(
        "accuracy vs random", "filtering", "higher", protocol, f"{about}, beyond random rows; test row by test row",
        main=False,
    )  # fmt: skip
    against = [
        result(beyond, one, difference(values(one), chance, seed=settings.seed))
        for one in graded_by_lists(scored)
        if one.candidate.label in right
    ]
    return [accuracy, Graded(beyond, tuple(against)), *_wins(scored, right, protocol)]


def _right(
    scored: Sequence[Scored], seen: Seen, done: int, settings: EvaluateSettings
) -> dict[str, Float64[np.ndarray, "seeds tests"]]:
    """By method, whether a test row was answered rightly; of the control, in which share of its draws."""
    correct: Bool[np.ndarray, "sets seeds tests"] = seen.found.correct
    rows = scored[0].scores.shape[1]
    draws = [seen.of(removal, correct) for removal in _random_sets(rows, settings)]
    found = {CONTROL: np.stack(draws).mean(axis=0, dtype=np.float64)}
    for one in graded_by_lists(scored)[:done]:
        found[one.candidate.label] = seen.of(_removed(one, settings), correct).astype(np.float64)
    return found


def _wins(
    scored: Sequence[Scored], right: dict[str, Float64[np.ndarray, "seeds tests"]], protocol: str
) -> list[Graded]:
    """Win rates among all that were retrained; a trial is a seed."""
    there = [one for one in scored if one.candidate.label in right]
    if len(there) < 2:
        return []
    trials = np.stack([right[one.candidate.label].mean(axis=1) for one in there])
    count = trials.shape[1]
    about = f"mean over the other methods of the share of trials ({count:,}) with more right answers; ties count half"
    column = Column("win rate", "filtering", "higher", protocol, about)
    tests = next(iter(right.values())).shape[1]
    cells = [
        result(column, one, Interval(float(rate), np.nan, np.nan, tests))
        for one, rate in zip(there, win_rate(trials), strict=True)
    ]
    return [Graded(column, tuple(cells))]


def _removed(one: Scored, settings: EvaluateSettings) -> RowSet:
    scores = one.scores.mean(axis=0, dtype=np.float64)
    kept = kept_rows(scores, share=settings.filter_share, seed=settings.seed)
    return tuple(np.setdiff1d(np.arange(len(scores)), kept).tolist())


def _random_sets(rows: int, settings: EvaluateSettings) -> list[RowSet]:
    generator = np.random.default_rng([settings.seed, 3])
    gone = settings.filtered(rows)
    return [tuple(np.sort(generator.permutation(rows)[:gone]).tolist()) for _ in range(settings.draws)]
