"""Deletion, QLD and leave-one-out: which models they must see, and the columns that come of them.

All three ask models that were trained without named rows. The control removes random rows, the same for every query;
it stands in for the method `random`, whose own lists would be such rows too, at the price of a list for every query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64

from headwater.evaluation.bank import Results
from headwater.evaluation.candidates import CONTROL
from headwater.evaluation.columns import Column, Graded, graded, result
from headwater.evaluation.metrics import deletion, qld
from headwater.evaluation.metrics.bootstrap import band
from headwater.evaluation.metrics.leave_one_out import effects, leave_one_out
from headwater.evaluation.numbers import counted
from headwater.evaluation.plan import Removals, RowSet
from headwater.evaluation.result import Result
from headwater.evaluation.scoring import Scored
from headwater.evaluation.settings import EvaluateSettings

Values = Float64[np.ndarray, " queries"]
Curves = dict[str, dict[str, Any]]
"""By column: "k" (rows removed, or words cut), and by method "mean", "low" and "high" at each."""
_WITHOUT: RowSet = ()


def removal_sets(metric: str, scored: Sequence[Scored], settings: EvaluateSettings) -> Removals[RowSet]:
    """The row sets that a metric needs, given every method's scores. Raises UsageError for a grid that is too long."""
    queries, rows = scored[0].scores.shape
    if metric == "leave-one-out":
        return Removals((_WITHOUT,), tuple(((row,),) for row in rows_left_out(rows, settings)))
    if metric == "qld":
        drawn = qld.random_plan(rows, settings.draws, share=settings.share, seed=settings.seed).removals
        plans = [qld.plan(one.scores, share=settings.share, seed=settings.seed) for one in graded_by_lists(scored)]
    else:
        grid = settings.sizes(rows)
        drawn = deletion.random_plan(rows, settings.draws, grid=grid, seed=settings.seed).removals
        plans = [
            deletion.plan(one.scores, grid=grid, opponents=side, seed=settings.seed)
            for one in graded_by_lists(scored)
            for side in (False, True)
        ]
    units = [
        tuple(dict.fromkeys(each.removals[number] for each in plans for number in each.of[query]))
        for query in range(queries)
    ]
    return Removals((_WITHOUT, *drawn), tuple(units))


def rows_left_out(rows: int, settings: EvaluateSettings) -> list[int]:
    """The rows of a leave-one-out correlation, in the order in which they are left out."""
    order = np.random.default_rng([settings.seed, 1]).permutation(rows)
    return [int(row) for row in order[: settings.rows_out]]


@dataclass(frozen=True)
class Seen:
    """What a bank's models without some rows said, row set by row set."""

    found: Results
    protocol: str
    sets: Sequence[Any]
    """The row sets, in the order of the arrays; of word deletion, sets of words."""

    def of(self, removal: Any, values: Float32[np.ndarray, "sets seeds queries"]) -> Float32[np.ndarray, "s q"]:
        """The outputs of the models trained without these rows."""
        return np.asarray(values[self.sets.index(removal)])

    @property
    def seeds(self) -> int:
        """Models for each."""
        return len(self.found.seeds)


def deletion_columns(
    scored: Sequence[Scored], seen: Seen, queries: int, settings: EvaluateSettings
) -> tuple[list[Graded], Curves]:
    """DEL+ and DEL- of the first `queries` queries: areas, areas beyond the control, and curves."""
    rows = scored[0].scores.shape[1]
    grid = settings.sizes(rows)
    control = deletion.random_plan(rows, settings.draws, grid=grid, seed=settings.seed)
    made: list[Graded] = []
    drawn: Curves = {}
    for name, values in measured(seen.found).items():
        values = values[:, :, :queries]
        baseline = seen.of(_WITHOUT, values).mean(axis=0)
        chance = deletion.curves(deletion.gather_random(control, values, sets=seen.sets), baseline)
        for side, opponents in (("+", False), ("-", True)):
            curves = {
                one.candidate.label: chance
                if one.candidate.label == CONTROL
                else _curve(one, values, baseline, seen, queries, grid, opponents, settings)
                for one in scored
            }
            column = _area(side, name, grid, queries, seen, settings)
            made += _area_columns(column, scored, curves, chance, settings)
            drawn[column.name] = bands(grid, curves, chance, settings)
    return made, drawn


def qld_column(scored: Sequence[Scored], seen: Seen, queries: int, settings: EvaluateSettings) -> Graded:
    """QLD of the first `queries` queries."""
    rows, losses = scored[0].scores.shape[1], seen.found.losses[:, :, :queries]
    drawn = qld.random_plan(rows, settings.draws, share=settings.share, seed=settings.seed)
    control = deletion.gather_random(drawn, losses, sets=seen.sets)
    about = "how much more the loss rises without each query's top rows than without as many random rows, in nats"
    gone = drawn.grid[0]
    protocol = f"{gone:,} of {rows:,} rows removed, {said_seeds(settings)}, {counted(settings.draws, 'random draw')}"
    protocol += f", {counted(queries, 'query')}"

    def values(one: Scored) -> Values:
        if one.candidate.label == CONTROL:
            return np.zeros(queries)
        made = qld.plan(one.scores[:queries], share=settings.share, seed=settings.seed)
        return qld.qld(deletion.gather(made, losses, sets=seen.sets), control)

    note = {CONTROL: "The control itself: 0 by definition."}
    made = graded(Column("qld", "qld", "higher", protocol, about), scored, values, seed=settings.seed)
    return Graded(made.column, tuple(_noted(one, note) for one in made.results), made.values)


def leave_one_out_column(
    scored: Sequence[Scored], seen: Seen, rows: Sequence[int], settings: EvaluateSettings
) -> Graded:
    """Correlation over the rows that were left out one at a time."""
    losses = seen.found.losses
    without = np.stack([seen.of((row,), losses) for row in rows])
    found = effects(without, seen.of(_WITHOUT, losses))
    protocol = (
        f"{len(rows):,} of {scored[0].scores.shape[1]:,} rows left out one at a time, {said_seeds(settings)}; Pearson"
    )
    about = "correlation of scores with the rise of the loss when a row is left out"
    column = Column("leave-one-out", "leave-one-out", "higher", protocol, about)
    return graded(column, scored, lambda one: leave_one_out(one.scores[:, list(rows)], found), seed=settings.seed)


def graded_by_lists(scored: Sequence[Scored]) -> list[Scored]:
    """All but the control."""
    return [one for one in scored if one.candidate.label != CONTROL]


def measured(found: Results) -> dict[str, Float32[np.ndarray, "sets seeds queries"]]:
    """What deletion looks at: probability and log-odds of a class; of a text, whose probability is tiny, its log."""
    if found.label_logits is None:
        return {"log-probability": -found.losses}
    return {"probability": found.probabilities, "margin": found.margins}


def _curve(
    one: Scored,
    values: Float32[np.ndarray, "sets seeds queries"],
    baseline: Values,
    seen: Seen,
    queries: int,
    grid: Sequence[int],
    opponents: bool,
    settings: EvaluateSettings,
) -> Float64[np.ndarray, "queries k"]:
    made = deletion.plan(one.scores[:queries], grid=grid, opponents=opponents, seed=settings.seed)
    return deletion.curves(deletion.gather(made, values, sets=seen.sets), baseline)


def _area(side: str, name: str, grid: Sequence[int], queries: int, seen: Seen, settings: EvaluateSettings) -> Column:
    which, good = ("highest", "lower") if side == "+" else ("lowest", "higher")
    better: Literal["higher", "lower"] = "lower" if good == "lower" else "higher"
    points = ", ".join(f"{k:,}" for k in grid)
    control = counted(settings.draws, "random removal")
    protocol = f"without {points} rows, {said_seeds(settings)}, {counted(queries, 'query')}; control: {control}"
    about = f"change of the {name} after retraining without the {which}-scored rows, mean over the grid"
    return Column(f"del{side} {name}", "deletion", better, protocol, about)


def _area_columns(
    column: Column,
    scored: Sequence[Scored],
    curves: dict[str, Float64[np.ndarray, "queries k"]],
    chance: Float64[np.ndarray, "queries k"],
    settings: EvaluateSettings,
) -> list[Graded]:
    note = {CONTROL: "The control: random rows, the same for all queries."}
    plain = graded(column, scored, lambda one: deletion.auc(curves[one.candidate.label]), seed=settings.seed)
    plain = Graded(column, tuple(_noted(one, note) for one in plain.results), plain.values)
    about = f"{column.about}, beyond that of as many random rows"
    beyond = Column(f"{column.name} vs random", column.metric, column.better, column.protocol, about, main=False)
    compared = [one for one in scored if one.candidate.label != CONTROL]
    results = tuple(
        result(beyond, one, deletion.against_random(curves[one.candidate.label], chance, seed=settings.seed))
        for one in compared
    )
    return [plain, Graded(beyond, results)]


def bands(
    grid: Sequence[int],
    curves: Mapping[str, Float64[np.ndarray, "queries k"]],
    chance: Float64[np.ndarray, "queries k"],
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """A curve of each method and of the control, with its interval at each point."""
    told: dict[str, Any] = {"k": list(grid), "methods": {}}
    for label, curve in {**curves, CONTROL: chance}.items():
        mean, low, high = (
            [None if np.isnan(each) else float(each) for each in line] for line in band(curve, seed=settings.seed)
        )
        told["methods"][label] = {"mean": mean, "low": low, "high": high}
    return told


def said_seeds(settings: EvaluateSettings) -> str:
    """With which seeds, from which weights."""
    return f"{counted(settings.seeds, 'seed')} ({settings.first_weights} first weights)"


def _noted(one: Result, notes: dict[str, str]) -> Result:
    return replace(one, notes=(*one.notes, notes[one.method])) if one.method in notes else one
