"""The retrainings of an evaluation: banks, what the metrics wish of them, what there is time for, and doing it.

DIR/bank/half-SEED, DIR/bank/leave-k-out-SHARE-SEED     random subsets (LDS)
DIR/bank/remove                                         everything but named rows (deletion, QLD, leave-one-out, groups)
DIR/bank/words                                          all rows, named words cut out (word deletion)
DIR/bank/filter                                         the same, asked about test rows (filtering)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headwater.evaluation.bank import Protocol, RetrainBank, cut_words, remove
from headwater.evaluation.bank.fill import Pace, usual_processes
from headwater.evaluation.bank.manifest import read_times
from headwater.evaluation.columns import Metric, Need
from headwater.evaluation.plan import Removals, Total, Wish, counted_once
from headwater.evaluation.removals import Seen
from headwater.evaluation.scoring import Asked
from headwater.evaluation.settings import EvaluateSettings
from headwater.evaluation.wanted import most_sets
from headwater.runs import Corpus

_STARTING = 10.0  # seconds that a process takes before it retrains, at most
_QUICK = 2.0  # seconds of a retraining of which a few may be timed
_ALONE = 60.0  # seconds of work that are not worth starting processes


@dataclass(frozen=True)
class Retraining:
    """The banks of an evaluation, and its settings. Nothing is made before it is needed."""

    asked: Asked
    settings: EvaluateSettings
    metrics: Sequence[Metric]
    """Those that need retrainings."""
    tests: Corpus | None = None
    """What filtering asks about."""

    @cached_property
    def drawn(self) -> RetrainBank:
        """Random subsets."""
        chosen = self.settings.drawn
        share = "" if chosen.share is None else f"-{chosen.share:g}"
        return self._bank(f"{chosen.name}{share}-{chosen.seed}", chosen, self.asked.queries)

    @cached_property
    def named(self) -> RetrainBank:
        """Everything but named rows."""
        return self._bank("remove", remove(), self.asked.queries)

    @cached_property
    def filtered(self) -> RetrainBank:
        """Everything but named rows, asked about the test rows."""
        assert self.tests is not None
        return self._bank("filter", remove(), self.tests)

    @cached_property
    def worded(self) -> RetrainBank:
        """All rows, without named words."""
        return self._bank("words", cut_words(), self.asked.queries)

    def bank(self, need: Need) -> RetrainBank:
        """The bank that meets a need."""
        if need == "subsets":
            return self.drawn
        if need == "words":
            return self.worded
        return self.filtered if need == "filter" else self.named

    @property
    def needs(self) -> list[Need]:
        """What its metrics need, each once, subsets first."""
        found = dict.fromkeys(metric.need for metric in self.metrics)
        return sorted(found, key=lambda need: need != "subsets")

    @property
    def removing(self) -> list[Need]:
        """Those that are met by removing what is named."""
        return [need for need in self.needs if need != "subsets"]

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
        bank = self.bank(self.needs[0])
        if Pace.of(bank).seconds_a_row is None:
            if self.needs[0] == "subsets":
                bank.grow(3)
                numbers = [0, 1, 2]
            else:
                numbers = self._added(self.needs[0], [()])
            items = [(number, seed) for number in numbers for seed in self.seeds]
            bank.fill(processes=1, only=items[:1], show=False)
            if float(Pace.of(bank).seconds_a_row or 0.0) * self.rows < _QUICK:  # the first one is the slowest
                bank.fill(processes=1, only=items[:3], show=False)
        return float(Pace.of(bank).seconds_a_row or 0.0)

    def seconds_each(self) -> float | None:
        """What a retraining took in the mean, whatever its rows; None where none was needed."""
        times = [seconds for need in self.needs for seconds in read_times(self.bank(need).folder).values()]
        return sum(times) / len(times) if times else None

    def processes(self, seconds: float) -> int:
        """How many processes share so much work of all banks; each bank starts its own."""
        if self.settings.processes is not None:
            return self.settings.processes
        return usual_processes(self.bank(self.needs[0]), self.asked.run) if seconds > _ALONE * len(self.needs) else 1

    def done_subsets(self) -> int:
        """How many retrainings of the first subsets are there, so many that none is missing before them."""
        missing = set(self.drawn.missing())
        count = len(self.drawn.manifest.masks)
        return next((n for n in range(count) if any((n, seed) in missing for seed in self.seeds)), count)

    def seen(self, need: Need) -> Seen:
        """What the models without some rows, or words, said, as far as every seed was retrained."""
        bank = self.bank(need)
        found = bank.results(seeds=self.seeds)
        edits = bank.manifest.edits
        return Seen(found, bank.protocol, [edits[at] for at in found.subsets] if edits else found.removals)

    def done_removals(self, need: Need) -> set[Any]:
        """Row sets, or sets of words, that every seed was retrained without."""
        return set(self.seen(need).sets)

    def guesses(self, methods: int) -> list[Wish]:
        """What the metrics may wish for at most, in retrainings, before there are scores."""
        return [self._guess(metric, methods) for metric in self.metrics]

    def least(self, guesses: Sequence[Wish]) -> float:
        """What the metrics need at the least; the models trained on all rows serve all that ask the same queries."""
        shared = sum(metric.need == "removals" for metric in self.metrics) - 1
        return sum(wish.cost(min(wish.least, wish.most)) for wish in guesses) - len(self.seeds) * max(0, shared)

    def missing(self, guesses: Sequence[Wish]) -> float:
        """Of the least that the metrics need, how many retrainings are not there yet; at least, for want of scores."""
        least = dict.fromkeys(self.needs, 0.0)
        for metric, wish in zip(self.metrics, guesses, strict=True):
            least[metric.need] += wish.cost(min(wish.least, wish.most))
        seeds = len(self.seeds)
        done = {need: self.done_subsets() if need == "subsets" else len(self.done_removals(need)) for need in least}
        return sum(max(0.0, cost - seeds * done[need]) for need, cost in least.items())

    def wishes(self, removals: Mapping[str, Removals[Any]], *, seconds: bool) -> tuple[list[Wish], Total]:
        """What the metrics wish for, and what so many units of each cost together.

        It is counted in retrainings, or in seconds of work of which what is done already costs none. Row sets that
        two metrics share are retrained, and counted, once.
        """
        seeds = len(self.seeds)
        a_model = seeds * (self.rows * self.seconds_a_row if seconds else 1.0)
        a_subset = seeds * (self.kept * self.seconds_a_row if seconds else 1.0)
        there = self.done_subsets() if seconds and "subsets" in self.needs else 0
        done: dict[Need, set[Any]] = {need: self.done_removals(need) if seconds else set() for need in self.removing}
        made = []
        for metric in self.metrics:
            if metric.need == "subsets":
                costs = [a_subset * max(0, count - there) for count in range(self.settings.subsets + 1)]
            else:
                mine = removals[metric.name]
                alone = counted_once([mine], done[metric.need])
                costs = [a_model * alone([count]) for count in range(len(mine.of_unit) + 1)]
            made.append(Wish(metric.name, metric.unit, metric.least, costs))
        return made, self._together(made, removals, done, a_model)

    def retrain(
        self, units: Mapping[str, int], removals: Mapping[str, Removals[Any]], *, until: float | None, show: bool | None
    ) -> None:
        """Retrain what so many units of each metric need, until the clock says so (time.monotonic())."""
        subsets = units.get("lds", 0)
        sets = {need: self._sets(need, units, removals) for need in self.removing}
        left: dict[Need, float] = {need: self._work(need, each) for need, each in sets.items()}
        if "subsets" in self.needs:
            fresh = max(0, subsets - self.done_subsets())
            left["subsets"] = len(self.seeds) * fresh * self.kept * self.seconds_a_row
        left = {need: work for need, work in left.items() if work}
        processes = self.processes(sum(left.values()))
        starting = starting_seconds(processes)
        for need in list(left):
            work, total, banks = left[need], sum(left.values()), len(left)
            del left[need]
            share = until
            if until is not None and left:
                there = until - time.monotonic() - starting * banks
                share = time.monotonic() + starting + max(0.0, there) * work / total
            bank = self.bank(need)
            if need == "subsets":
                bank.grow(subsets)
                numbers = list(range(subsets))
            else:
                numbers = self._added(need, sets[need])
            items = [(number, seed) for number in numbers for seed in self.seeds]
            bank.fill(until=share, processes=processes, only=items, show=show)

    def _added(self, need: Need, sets: Sequence[Any]) -> list[int]:
        bank = self.bank(need)
        return bank.add_edits(sets) if need == "words" else bank.add(sets)

    def _sets(self, need: Need, units: Mapping[str, int], removals: Mapping[str, Removals[Any]]) -> list[Any]:
        names = [metric.name for metric in self.metrics if metric.need == need]
        return _in_turn([removals[name].first(units[name]) for name in names])

    def _work(self, need: Need, sets: Sequence[Any]) -> float:
        """Seconds of work that are left."""
        missing = len(set(sets) - self.done_removals(need)) if sets else 0
        return len(self.seeds) * missing * self.rows * self.seconds_a_row

    def _together(
        self, wishes: Sequence[Wish], removals: Mapping[str, Removals[Any]], done: Mapping[Need, Any], price: float
    ) -> Total:
        """The sum of what units of each cost, but row sets of one bank counted once."""
        places = {need: [at for at, metric in enumerate(self.metrics) if metric.need == need] for need in done}
        counts = {
            need: counted_once([removals[wishes[at].metric] for at in places[need]], done[need]) for need in places
        }
        single = [at for at, metric in enumerate(self.metrics) if metric.need == "subsets"]

        def total(units: Sequence[int]) -> float:
            shared = sum(price * counts[need]([units[at] for at in places[need]]) for need in places)
            return shared + sum(wishes[at].cost(units[at]) for at in single)

        return total

    def _guess(self, metric: Metric, methods: int) -> Wish:
        seeds = len(self.seeds)
        if metric.need == "subsets":
            costs = [seeds * count for count in range(self.settings.subsets + 1)]
        else:
            base, each, units = most_sets(metric, self.asked, methods, self.settings)
            costs = [seeds * (base + each * count) for count in range(units + 1)]
        return Wish(metric.name, metric.unit, metric.least, costs)

    def _bank(self, name: str, protocol: Protocol, queries: Corpus) -> RetrainBank:
        return RetrainBank.create(
            self.asked.run,
            self.asked.folder / "bank" / (name if self.settings.first_weights == "same" else f"{name}-fresh"),
            queries,
            protocol=protocol,
            seeds=self.settings.seeds,
            arithmetic=self.settings.arithmetic,
            first_weights=self.settings.first_weights,
        )


def starting_seconds(processes: int) -> float:
    """What processes take before they retrain."""
    return _STARTING if processes > 1 else 0.0


def _in_turn(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """All of them, each once; the parts take turns, so that none is served last."""
    longest = max((len(part) for part in parts), default=0)
    turns = [part[place] for place in range(longest) for part in parts if place < len(part)]
    return list(dict.fromkeys(turns))
