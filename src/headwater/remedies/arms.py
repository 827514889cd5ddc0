"""The arms of a proof: ways to train that differ in their rows alone, so that what differs after is their doing.

    untouched   the corpus as it was
    repaired    the corpus as the plan makes it
    control     the same change of random rows: of each label as many deleted, relabelled to the same labels, given
                the same weights (rows are drawn anew for every seed, each by one action at most)
    deleted     where the plan relabels or edits: those very rows deleted instead

Words cannot be edited at random in a fair way, so a plan that only edits is compared with `deleted`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.remedies.change import Change
from headwater.runs.corpus import Corpus, Label

UNTOUCHED, REPAIRED, CONTROL, DELETED = "untouched", "repaired", "control", "deleted"


@dataclass(frozen=True)
class Arm:
    """One way to train, for one seed."""

    name: str
    change: Change


def arms_of(change: Change, corpus: Corpus, seed: int) -> list[Arm]:
    """The arms in the order in which they are told; `seed` draws the control's rows."""
    found = [Arm(UNTOUCHED, Change()), Arm(REPAIRED, change)]
    if change.delete or change.labels or change.weights:
        found.append(Arm(CONTROL, random_change(change, corpus, seed)))
    changed = frozenset({*change.labels, *change.texts})
    if changed:
        found.append(Arm(DELETED, Change(change.delete | changed, weights=_without(change.weights, changed))))
    return found


def about(name: str) -> str:
    """One line about an arm."""
    return {
        UNTOUCHED: "the corpus as it was",
        REPAIRED: "the plan applied",
        CONTROL: "the same changes on random rows of the same labels",
        DELETED: "the rows that the plan relabels or edits, deleted instead",
    }[name]


def random_change(change: Change, corpus: Corpus, seed: int) -> Change:
    """Deletions, label changes and weights as the plan's, on random rows of the same labels; no row twice."""
    labels = _labels(corpus)
    generator = np.random.default_rng(seed)
    pools = {label: generator.permutation(rows).tolist() for label, rows in sorted(_by_label(labels).items())}

    def draw(row: int) -> int:
        return int(pools[str(labels[row])].pop())

    return Change(
        frozenset(draw(row) for row in sorted(change.delete)),
        {draw(row): label for row, label in sorted(change.labels.items())},
        {},
        {draw(row): weight for row, weight in sorted(change.weights.items())},
    )


def stratified(corpus: Corpus, change: Change, share: float) -> list[int]:
    """About `share` of the rows, ascending: of each label, and there of what each action changes and of the others.

    Every such part keeps one row at least; the draw is always the same.
    """
    kinds = {"delete": change.delete, "relabel": change.labels, "edit": change.texts, "weight": change.weights}
    action = {row: name for name, rows in kinds.items() for row in rows}
    parts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, label in enumerate(_labels(corpus)):
        parts[str(label), action.get(row, "")].append(row)
    generator = np.random.default_rng(0)
    kept: list[int] = []
    for _, rows in sorted(parts.items()):
        kept += generator.choice(rows, max(1, round(share * len(rows))), replace=False).tolist()
    return sorted(kept)


def _labels(corpus: Corpus) -> Sequence[Label | None]:
    column = corpus.columns.label
    labels: list[Any] = [None] * len(corpus) if column is None else corpus.table.column(column).to_pylist()
    return labels


def _by_label(labels: Sequence[Label | None]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        found[str(label)].append(row)
    return found


def _without(weights: Mapping[int, float], rows: frozenset[int]) -> dict[int, float]:
    return {row: weight for row, weight in weights.items() if row not in rows}
