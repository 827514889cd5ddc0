"""The arms of a proof: ways to train that differ in their rows alone, so that what differs after is their doing.

    untouched   the corpus as it was
    repaired    the corpus as the plan makes it
    control     the same change of random rows: of each label as many deleted, relabelled to the same labels, given
                the same weights (rows are drawn anew for every seed, each by one action at most)
    deleted     where the plan relabels or edits: those very rows deleted instead

Words cannot be edited at random in a fair way, nor can a language model's completions be given to other rows: a plan
that does nothing else is compared with `deleted`. Where labels are no classes, the control's rows are drawn from the
same sources (see `strata`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.remedies.change import Change
from headwater.remedies.measure import Measure
from headwater.remedies.parts import SOURCE, parts_of
from headwater.runs.corpus import Corpus

UNTOUCHED, REPAIRED, CONTROL, DELETED = "untouched", "repaired", "control", "deleted"


@dataclass(frozen=True)
class Arm:
    """One way to train, for one seed."""

    name: str
    change: Change


def arms_of(change: Change, corpus: Corpus, seed: int, *, classes: bool = True) -> list[Arm]:
    """The arms in the order in which they are told; `seed` draws the control's rows, `classes`: labels are classes."""
    found = [Arm(UNTOUCHED, Change()), Arm(REPAIRED, change)]
    if change.delete or change.weights or (change.labels and classes):
        found.append(Arm(CONTROL, random_change(change, corpus, seed, classes=classes)))
    changed = frozenset({*change.labels, *change.texts})
    if changed:
        found.append(Arm(DELETED, Change(change.delete | changed, weights=_without(change.weights, changed))))
    return found


def about(name: str, measure: Measure) -> str:
    """One line about an arm."""
    return {
        UNTOUCHED: "the corpus as it was",
        REPAIRED: "the plan applied",
        CONTROL: measure.control,
        DELETED: "the rows that the plan relabels or edits, deleted instead",
    }[name]


def random_change(change: Change, corpus: Corpus, seed: int, *, classes: bool = True) -> Change:
    """Deletions, weights and (of classes) label changes as the plan's, on random rows of the same strata; no row twice.

    What is drawn may be among the plan's own rows.
    """
    labels = change.labels if classes else {}
    parts = strata(corpus, Change(change.delete, labels, {}, change.weights), classes=classes)
    generator = np.random.default_rng(seed)
    pools = {part: generator.permutation(rows).tolist() for part, rows in sorted(_by_part(parts).items())}

    def draw(row: int) -> int:
        return int(pools[parts[row]].pop())

    return Change(
        frozenset(draw(row) for row in sorted(change.delete)),
        {draw(row): label for row, label in sorted(labels.items())},
        {},
        {draw(row): weight for row, weight in sorted(change.weights.items())},
    )


def stratified(corpus: Corpus, change: Change, share: float, *, classes: bool = True) -> list[int]:
    """About `share` of the rows, ascending: of each stratum, and there of what each action changes and of the others.

    Every such part keeps one row at least; the draw is always the same.
    """
    kinds = {"delete": change.delete, "relabel": change.labels, "edit": change.texts, "weight": change.weights}
    action = {row: name for name, rows in kinds.items() for row in rows}
    parts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, part in enumerate(strata(corpus, change, classes=classes)):
        parts[part, action.get(row, "")].append(row)
    generator = np.random.default_rng(0)
    kept: list[int] = []
    for _, rows in sorted(parts.items()):
        kept += generator.choice(rows, max(1, round(share * len(rows))), replace=False).tolist()
    return sorted(kept)


def strata(corpus: Corpus, change: Change, *, classes: bool) -> list[str]:
    """What each row shares with those that may stand for it: its label; where labels are no classes, its source.

    No source is told apart where the corpus has no such column, or where the plan changes more than half of one: to
    delete a source, and beside it random rows of that source, would be the same twice.
    """
    if classes:
        column = corpus.columns.label
        labels = [None] * len(corpus) if column is None else corpus.table.column(column).to_pylist()
        return [str(label) for label in labels]
    whole = [""] * len(corpus)
    sources = parts_of(corpus, SOURCE)
    if sources is None:
        return whole
    sizes, changed = Counter(sources), Counter(sources[row] for row in change.rows)
    return whole if any(2 * count > sizes[source] for source, count in changed.items()) else sources


def _by_part(parts: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, part in enumerate(parts):
        found[part].append(row)
    return found


def _without(weights: Mapping[int, float], rows: frozenset[int]) -> dict[int, float]:
    return {row: weight for row, weight in weights.items() if row not in rows}
