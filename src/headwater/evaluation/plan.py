"""Who gets how many retrainings: all that are wished for if there is time, else each metric the same part of its wish.

A metric wishes for units (subsets of an LDS, queries of a deletion curve, rows left out); what n units cost is known
beforehand, in seconds or in retrainings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64

from headwater.errors import UsageError

RowSet = tuple[int, ...]
"""Rows that a model is trained without, ascending."""
T = TypeVar("T", bound=Hashable)
Total = Callable[[Sequence[int]], float]
"""What so many units of each wish cost together."""


@dataclass(frozen=True)
class Wish:
    """What a metric would like, unit by unit."""

    metric: str
    unit: str
    least: int
    """Units without which it says nothing."""
    costs: Sequence[float]
    """Of 0, 1, 2, ... units; never falling. Without a unit the metric is left out, and costs nothing."""

    @property
    def most(self) -> int:
        """Units wished for."""
        return len(self.costs) - 1

    def cost(self, units: int) -> float:
        """What so many units cost."""
        return 0.0 if units == 0 else float(self.costs[units])


def allot(wishes: Sequence[Wish], allowed: float, total: Total | None = None) -> list[int]:
    """Units for each wish, which together cost at most `allowed`. Raises UsageError where the least costs more.

    `total` says what units cost together, where wishes share some; None: the sum of what each costs.
    """
    cost = total or (lambda units: sum(wish.cost(count) for wish, count in zip(wishes, units, strict=True)))
    least = cost(_at(wishes, 0.0))
    if least > allowed:
        raise UsageError(f"the least that these metrics need costs {least:g}, but only {allowed:g} are allowed.")
    units = _at(wishes, 1.0)
    if cost(units) <= allowed:
        return units
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(_at(wishes, middle)) <= allowed else (low, middle)
    units = _at(wishes, low)
    return _filled_up(wishes, units, allowed, cost)


def _at(wishes: Sequence[Wish], share: float) -> list[int]:
    return [max(min(wish.least, wish.most), int(share * wish.most)) for wish in wishes]


def _filled_up(wishes: Sequence[Wish], units: list[int], allowed: float, cost: Total) -> list[int]:
    """Give what is left over to whoever can still use it, one unit at a time."""
    growing = True
    while growing:
        growing = False
        for number, wish in enumerate(wishes):
            more = [count + (place == number) for place, count in enumerate(units)]
            if units[number] < wish.most and cost(more) <= allowed:
                units, growing = more, True
    return units


@dataclass(frozen=True)
class Removals(Generic[T]):
    """The row sets that a metric must see models trained without: some in any case, and those of each unit.

    Of word deletion, they are sets of words.
    """

    always: tuple[T, ...]
    of_unit: tuple[tuple[T, ...], ...] = field(default=())

    def first(self, units: int) -> tuple[T, ...]:
        """The row sets of the first `units` units, each once, in the order in which they are to be retrained."""
        if not units:
            return ()
        wanted = [*self.always, *(removal for unit in self.of_unit[:units] for removal in unit)]
        return tuple(dict.fromkeys(wanted))

    def finished(self, done: set[T]) -> int:
        """How many units can be graded: the first ones, without a gap."""
        if not done.issuperset(self.always):
            return 0
        for number, unit in enumerate(self.of_unit):
            if not done.issuperset(unit):
                return number
        return len(self.of_unit)


def counted_once(parts: Sequence[Removals[T]], done: Collection[T] = ()) -> Callable[[Sequence[int]], int]:
    """How many row sets so many units of each part need together, without those that are done: shared ones once."""
    numbers: dict[T, int] = {}
    first: list[dict[int, int]] = []  # of each part: from how many units on it needs a row set
    for one in parts:
        needs: dict[int, int] = {}
        for unit, sets in enumerate((one.always, *one.of_unit)):
            for each in sets:
                if each not in done:
                    needs.setdefault(numbers.setdefault(each, len(numbers)), max(1, unit))
        first.append(needs)
    never = 1 + max((len(one.of_unit) for one in parts), default=0)
    table: Int64[np.ndarray, "parts sets"] = np.full((len(parts), len(numbers)), never, dtype=np.int64)
    for part, needs in enumerate(first):
        table[part, list(needs)] = list(needs.values())
    return lambda units: int((table <= np.asarray(units)[:, None]).any(axis=0).sum())
