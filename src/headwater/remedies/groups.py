"""Suggestions in groups (a confusion of labels, a cluster of duplicates, a trigger): what is decided together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headwater.remedies.marks import Mark
from headwater.remedies.plan import Plan, Repair

ALONE = "no group"


@dataclass(frozen=True)
class Group:
    """Suggestions of one audit that share a reason, in the order of the plan. `name` is "" for those without one."""

    audit: str
    name: str
    repairs: tuple[Repair, ...]

    @property
    def title(self) -> str:
        """What the group is called."""
        return self.name or ALONE

    def decided(self, marks: Mapping[int, Mark]) -> int:
        """Return how many of its rows are accepted or rejected."""
        return sum(status_of(repair, marks) != "suggested" for repair in self.repairs)


def groups_of(audit: str, plan: Plan) -> list[Group]:
    """Return a plan's groups, the largest first; equal sizes in the order of their first row. Every row is in one."""
    found: dict[str, list[Repair]] = {}
    for repair in plan.repairs:
        if repair.row is not None:
            found.setdefault(repair.group or "", []).append(repair)
    made = [Group(audit, name, tuple(repairs)) for name, repairs in found.items()]
    return sorted(made, key=lambda group: -len(group.repairs))


def status_of(repair: Repair, marks: Mapping[int, Mark]) -> str:
    """Return suggested, accepted or rejected: what the row's mark says, whichever audit it came from."""
    mark = marks.get(-1 if repair.row is None else repair.row)
    return "suggested" if mark is None else mark.repair.status
