"""What an evaluation costs, said beforehand; how its time is divided; retraining until that is over."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headwater.errors import UsageError
from headwater.evaluation.candidates import CONTROL, Candidate
from headwater.evaluation.columns import Metric
from headwater.evaluation.plan import Removals, Wish, allot
from headwater.evaluation.retraining import Retraining, starting_seconds
from headwater.evaluation.scoring import scoring_seconds

_WORTH = 0.1  # of the budget: less is not worth another round of retraining
_PLOTS = {"deletion": 9, "word-deletion": 7, "facts": 5, "filtering": 4}  # on the page; of other metrics 2
_GRADING, _A_PLOT = 0.3, 0.06  # seconds, where little else is computed
_SAFETY = 1.25  # what was timed once may take longer


class Clock:
    """The time there is, with a part kept for what comes after retraining: grading, and drawing the page."""

    def __init__(self, started: float, budget: float | None, metrics: Sequence[Metric]) -> None:
        self.started, self.budget = started, budget
        self.reserve = 0.0 if budget is None else 1.2 + 2 * grading_seconds(metrics) + min(5.0, 0.01 * budget)

    @property
    def until(self) -> float | None:
        """When retraining must end (time.monotonic())."""
        return None if self.budget is None else self.started + self.budget - self.reserve

    @property
    def left(self) -> float | None:
        """Seconds until then; None: as many as it takes."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())


def grading_seconds(metrics: Sequence[Metric]) -> float:
    """What intervals and the page take."""
    return _GRADING + _A_PLOT * sum(_PLOTS.get(metric.name, 2) for metric in metrics)


def forecast(retraining: Retraining, candidates: Sequence[Candidate], clock: Clock) -> str:
    """Say what all of it costs. Raises UsageError where not even the least fits."""
    settings, methods = retraining.settings, sum(one.label != CONTROL for one in candidates)
    guesses = retraining.guesses(methods)
    least = retraining.least(guesses)
    if settings.retrains is not None and settings.retrains < least:
        each = ", ".join(f"{wish.metric} {wish.cost(min(wish.least, wish.most)):,.0f}" for wish in guesses)
        raise UsageError(f"retrains {settings.retrains:,}: the least is {least:,.0f} ({each}).")
    told = []
    index = 0.0
    if clock.budget is not None or len(retraining.asked.run.corpus) > 1000:
        index = sum(scoring_seconds(retraining.asked, candidates).values())
        told.append(f"Indexing and scoring with {len(candidates)} methods: about {_time(index)}.")
    if not guesses:
        needed = index + clock.reserve
    else:
        model = retraining.rows * retraining.seconds_a_row
        most = sum(wish.cost(wish.most) for wish in guesses)
        capped = most if settings.retrains is None else min(most, settings.retrains)
        processes = retraining.processes(capped * model)
        told.append(
            f"At most {capped:,.0f} retrainings of {_time(model)} or less: {_time(capped * model / processes)} with "
            f"{processes} process{'es' if processes > 1 else ''}."
        )
        needed = index + clock.reserve + _SAFETY * retraining.missing(guesses) * model
    if clock.budget is None:
        return " ".join(told) or "No retraining is needed."
    if clock.budget < needed:
        what = f"{least:,.0f} retrainings" if guesses else "indexing"
        raise UsageError(
            f"a budget of {_time(clock.budget)} is too small: the least that these methods and metrics need is about "
            f"{_time(math.ceil(needed))} (indexing and scoring {_time(index)}, {what}). Raise it, or name fewer."
        )
    return " ".join([*told, f"Budget {_time(clock.budget)}."])


def retrain_within(
    retraining: Retraining, removals: Mapping[str, Removals[Any]], clock: Clock, show: bool | None
) -> tuple[list[Wish], dict[str, int]]:
    """Plan and retrain; where that went quicker than was thought, plan and retrain once more, and again."""
    wishes, units = _planned(retraining, removals, clock)
    while retraining.metrics:
        retraining.retrain(units, removals, until=clock.until, show=show)
        if clock.left is None or clock.left < _WORTH * float(clock.budget or 0.0):
            break
        _, more = _planned(retraining, removals, clock)
        if all(more[name] <= units[name] for name in units):
            break
        units = {name: max(units[name], more[name]) for name in units}
    return wishes, units


def _planned(
    retraining: Retraining, removals: Mapping[str, Removals[Any]], clock: Clock
) -> tuple[list[Wish], dict[str, int]]:
    """Units for each metric: what both the time that is left and the number of retrainings allow."""
    if not retraining.metrics:
        return [], {}
    wishes, together = retraining.wishes(removals, seconds=False)
    units = [wish.most for wish in wishes]
    cap = retraining.settings.retrains
    if cap is not None:
        units = allot(wishes, cap, together)
    if clock.left is not None:
        timed, together = retraining.wishes(removals, seconds=True)
        capped = [replace(wish, costs=wish.costs[: count + 1]) for wish, count in zip(timed, units, strict=True)]
        processes = retraining.processes(together(units))
        seconds = max(0.0, clock.left - starting_seconds(processes) * len(retraining.needs)) * processes
        try:
            units = allot(capped, seconds, together)
        except UsageError:  # indexing took longer than was foretold: as much as can be done is done
            units = [min(wish.least, wish.most) for wish in capped]
    return wishes, {wish.metric: count for wish, count in zip(wishes, units, strict=True)}


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"
