"""Methods that there was no time to score: they keep their row of the table, empty, and say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headwater.evaluation.candidates import Candidate
from headwater.evaluation.columns import Graded
from headwater.evaluation.costs import Clock
from headwater.evaluation.result import Result
from headwater.evaluation.scoring import Asked, Cost, Scored

_LATE = "Not scored: the budget was over. Give more time, or call again: what is finished is kept."


def scored_within(
    asked: Asked, candidates: Sequence[Candidate], clock: Clock, show: bool | None
) -> tuple[list[Scored], list[Candidate]]:
    """Score them, and tell which were not begun because the time was over.

    What costs next to nothing comes first (scores that are there, methods that read texts alone): the controls are
    never late. At least one is scored, however long it takes.
    """
    found: dict[str, Scored] = {}
    for candidate in sorted(candidates, key=lambda one: _costly(asked, one)):
        if found and _costly(asked, candidate) and clock.left is not None and clock.left <= 0:
            continue
        found[candidate.label] = asked.score(candidate, show=show)
    scored = [found[candidate.label] for candidate in candidates if candidate.label in found]
    return scored, [candidate for candidate in candidates if candidate.label not in found]


def cost_of(scored: Sequence[Scored], candidate: Candidate) -> Cost:
    """What a candidate cost; nothing is known of one that was late."""
    there = [one.cost for one in scored if one.candidate.label == candidate.label]
    return there[0] if there else Cost(candidate.label, None, None, None)


def with_late(one: Graded, late: Sequence[Candidate], candidates: Sequence[Candidate]) -> Graded:
    """The column with an empty cell for each that was late, in the order of the table."""
    if not late:
        return one
    name, protocol = one.column.name, one.column.protocol
    empty = [Result(name, each.label, np.nan, np.nan, np.nan, 0, protocol, None, (_LATE,)) for each in late]
    order = [candidate.label for candidate in candidates]
    return replace(one, results=tuple(sorted([*one.results, *empty], key=lambda cell: order.index(cell.method))))


def _costly(asked: Asked, candidate: Candidate) -> bool:
    return candidate.method is not None and asked.index_folder(candidate) is not None and not asked.known(candidate)
