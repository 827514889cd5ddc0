"""The retrainings of an evaluation: two banks, what the metrics wish of them, what there is time for, and doing it.

DIR/bank/half-SEED, DIR/bank/leave-k-out-SHARE-SEED     random subsets (LDS)
DIR/bank/remove                                         everything but named rows (deletion, QLD, leave-one-out)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from headwater.evaluation.bank import RetrainBank, remove
from headwater.evaluation.bank.fill import Pace, usual_processes
from headwater.evaluation.bank.manifest import read_times
from headwater.evaluation.columns import Metric
from headwater.evaluation.plan import Removals, RowSet, Wish
from headwater.evaluation.removals import most_sets
from headwater.evaluation.scoring import Asked
from headwater.evaluation.settings import EvaluateSettings

_STARTING = 10.0  # seconds that a process takes before it retrains, at most
_QUICK = 2.0  # seconds of a retraining of which a few may be timed
_ALONE = 60.0  # seconds of work that are not worth starting processes


@dataclass(frozen=True)
class Retraining:
    """Both banks of an evaluation, and its settings. Nothing is made before it is needed."""

    asked: Asked
    settings: EvaluateSettings
    metrics: Sequence[Metric]
    """Those that need retrainings."""

    @cached_property
    def drawn(self) -> RetrainBank:
        """Random subsets."""
        chosen = self.settings.drawn
        share = "" if chosen.share is None else f"-{chosen.share:g}"
        return self._bank(f"{chosen.name}{share}-{chosen.seed}", chosen)

    @cached_property
    def named(self) -> RetrainBank:
        """Everything but named rows."""
        return self._bank("remove", remove())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each set of rows is retrained with these."""
        return tuple(range(self.settings.seeds))

    @property
    def rows(self) -> int:
        """Rows of the corpus."""
        return len(self.asked.run.corpus)

    @property
    def kept(self) -> int:
        """Rows of a random subset."""
        return self.rows - self.settings.drawn.left_out(self.rows)

    @property
    def seconds_a_row(self) -> float:
        """From the retrainings that were done; without any, one is done now (quick ones: a few), and kept."""
        draws = any(metric.need == "subsets" for metric in self.metrics)
        bank = self.drawn if draws else self.named
        if Pace.of(bank).seconds_a_row is None:
            if draws:
                bank.grow(3)
            else:
                bank.add([()])
            items = [(number, seed) for number in range(3 if draws else 1) for seed in self.seeds]
            bank.fill(processes=1, only=items[:1], show=False)
            if float(Pace.of(bank).seconds_a_row or 0.0) * self.rows < _QUICK:  # the first one is the slowest
                bank.fill(processes=1, only=items[:3], show=False)
        return float(Pace.of(bank).seconds_a_row or 0.0)

    def seconds_each(self) -> float | None:
        """What a retraining took in the mean, whatever its rows; None where none was needed."""
        needs = {metric.need for metric in self.metrics}
        banks = [self.drawn] if "subsets" in needs else []
        banks += [self.named] if "removals" in needs else []
        times = [seconds for bank in banks for seconds in read_times(bank.folder).values()]
        return sum(times) / len(times) if times else None

    def processes(self, seconds: float) -> int:
        """How many processes so much work is shared by."""
        if self.settings.processes is not None:
            return self.settings.processes
        bank = self.drawn if any(metric.need == "subsets" for metric in self.metrics) else self.named
        return usual_processes(bank, self.asked.run) if seconds > _ALONE else 1

    def done_subsets(self) -> int:
        """How many retrainings of the first subsets are there, so many that none is missing before them."""
        missing = set(self.drawn.missing())
        count = len(self.drawn.manifest.masks)
        return next((n for n in range(count) if any((n, seed) in missing for seed in self.seeds)), count)

    def done_removals(self) -> set[RowSet]:
        """Row sets that every seed was retrained without."""
        return set(self.named.results(seeds=self.seeds).removals)

    def guesses(self, methods: int) -> list[Wish]:
        """What the metrics may wish for at most, in retrainings, before there are scores."""
        return [self._guess(metric, methods) for metric in self.metrics]

    def missing(self, guesses: Sequence[Wish]) -> float:
        """Of the least that the metrics need, how many retrainings are not there yet; at least, for want of scores."""
        least = [wish.cost(min(wish.least, wish.most)) for wish in guesses]
        seeds, subsets, removals = len(self.seeds), 0.0, 0.0
        for metric, cost in zip(self.metrics, least, strict=True):
            if metric.need == "subsets":
                subsets += cost - seeds * self.done_subsets()
            else:
                removals += cost
        done = seeds * len(self.done_removals()) if removals else 0
        return max(0.0, subsets) + max(0.0, removals - done)

    def wishes(self, removals: Mapping[str, Removals], *, seconds: bool) -> list[Wish]:
        """What the metrics wish for, in retrainings, or in seconds of work of which what is done already costs none.

        Row sets that two metrics share are counted for both: the plan may turn out cheaper, never dearer.
        """
        seeds = len(self.seeds)
        a_model = self.rows * self.seconds_a_row if seconds else 1.0
        done: set[RowSet] = self.done_removals() if seconds and removals else set()
        made = []
        for metric in self.metrics:
            if metric.need == "subsets":
                there = self.done_subsets() if seconds else 0
                each = seeds * (self.kept * self.seconds_a_row if seconds else 1.0)
                costs = [each * max(0, count - there) for count in range(self.settings.subsets + 1)]
            else:
                costs = [seeds * a_model * count for count in _counts(removals[metric.name], done)]
            made.append(Wish(metric.name, metric.unit, metric.least, costs))
        return made

    def retrain(
        self, units: Mapping[str, int], removals: Mapping[str, Removals], *, until: float | None, show: bool | None
    ) -> None:
        """Retrain what so many units of each metric need, until the clock says so (time.monotonic())."""
        sets = _in_turn([removals[name].first(units[name]) for name in removals])
        subsets = units.get("lds", 0)
        left = self._work(sets, subsets)
        total = sum(left.values())
        processes = self.processes(total)
        if left["named"]:
            share = None if until is None else time.monotonic() + (until - time.monotonic()) * left["named"] / total
            numbers = self.named.add(sets)
            items = [(number, seed) for number in numbers for seed in self.seeds]
            self.named.fill(until=share, processes=processes, only=items, show=show)
        if left["drawn"]:
            self.drawn.grow(subsets)
            items = [(number, seed) for number in range(subsets) for seed in self.seeds]
            self.drawn.fill(until=until, processes=processes, only=items, show=show)

    def _work(self, sets: Sequence[RowSet], subsets: int) -> dict[str, float]:
        """Seconds of work that are left in each bank."""
        seeds, pace = len(self.seeds), self.seconds_a_row
        missing = len(set(sets) - self.done_removals()) if sets else 0
        fresh = subsets - self.done_subsets() if subsets else 0
        return {"named": seeds * missing * self.rows * pace, "drawn": seeds * max(0, fresh) * self.kept * pace}

    def _guess(self, metric: Metric, methods: int) -> Wish:
        seeds = len(self.seeds)
        if metric.need == "subsets":
            costs = [seeds * count for count in range(self.settings.subsets + 1)]
        else:
            base, each, units = most_sets(metric.name, methods, len(self.asked.queries), self.rows, self.settings)
            costs = [seeds * (base + each * count) for count in range(units + 1)]
        return Wish(metric.name, metric.unit, metric.least, costs)

    def _bank(self, name: str, protocol: object) -> RetrainBank:
        return RetrainBank.create(
            self.asked.run,
            self.asked.folder / "bank" / (name if self.settings.first_weights == "same" else f"{name}-fresh"),
            self.asked.queries,
            protocol=protocol,  # type: ignore[arg-type]
            seeds=self.settings.seeds,
            arithmetic=self.settings.arithmetic,
            first_weights=self.settings.first_weights,
        )


def starting_seconds(processes: int) -> float:
    """What processes take before they retrain."""
    return _STARTING if processes > 1 else 0.0


def _counts(removals: Removals, done: set[RowSet]) -> list[int]:
    """How many row sets 0, 1, 2, ... units need, without those that are done."""
    seen = set(removals.always)
    counts = [0]
    missing = len(seen - done)
    for unit in removals.of_unit:
        fresh = set(unit) - seen
        seen |= fresh
        missing += len(fresh - done)
        counts.append(missing)
    return counts


def _in_turn(parts: Sequence[Sequence[RowSet]]) -> list[RowSet]:
    """All of them, each once; the parts take turns, so that none is served last."""
    longest = max((len(part) for part in parts), default=0)
    turns = [part[place] for place in range(longest) for part in parts if place < len(part)]
    return list(dict.fromkeys(turns))
