"""Which repairs of a plan are applied: the accepted ones, and the suggestions that `--accept` names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.errors import UsageError
from headwater.remedies.plan import Plan, Repair

_HOW = "Write it as top:200, confidence:0.9 or group:NAME."


@dataclass(frozen=True)
class Accept:
    """One `--accept`: the first so many suggestions, those of a confidence, or those of a group."""

    kind: str
    value: str

    @classmethod
    def read(cls, text: str) -> Accept:
        """Read `top:200`, `confidence:0.9` or `group:NAME`. Raises UsageError."""
        kind, colon, value = text.partition(":")
        if not colon or not value or kind not in ("top", "confidence", "group"):
            raise UsageError(f"--accept {text}: {_HOW}")
        if kind == "top" and not (value.isdecimal() and int(value) > 0):
            raise UsageError(f"--accept {text}: top takes a whole number above 0.")
        if kind == "confidence":
            try:
                fits = 0 <= float(value) <= 1
            except ValueError:
                fits = False
            if not fits:
                raise UsageError(f"--accept {text}: confidence takes a number from 0 to 1.")
        return cls(kind, value)

    def of(self, suggested: Sequence[Repair]) -> list[Repair]:
        """The suggestions that this takes; those without rank come by score, strongest first, after those with one."""
        if self.kind == "top":
            return sorted(suggested, key=_order)[: int(self.value)]
        if self.kind == "group":
            return [repair for repair in suggested if repair.group == self.value]
        least = float(self.value)
        return [repair for repair in suggested if repair.confidence is not None and repair.confidence >= least]


def chosen(plan: Plan, accept: Sequence[str] = ()) -> list[Repair]:
    """The repairs to apply, in the plan's order: accepted ones, and suggestions that any of `accept` takes.

    What a person rejected is never among them. Raises UsageError for an `accept` that cannot be read or takes nothing.
    """
    suggested = [repair for repair in plan.repairs if repair.status == "suggested"]
    taken: set[int] = set()
    for text in accept:
        found = Accept.read(text).of(suggested)
        if not found:
            raise UsageError(f"--accept {text}: takes none of the {len(suggested):,} suggested rows of {plan.name}.")
        taken |= {id(repair) for repair in found}
    return [repair for repair in plan.repairs if repair.status == "accepted" or id(repair) in taken]


def _order(repair: Repair) -> tuple[float, float]:
    rank = math.inf if repair.rank is None else repair.rank
    return rank, -(-math.inf if repair.score is None else repair.score)
