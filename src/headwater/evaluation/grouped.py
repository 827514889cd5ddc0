"""Pearson over groups: whether the summed scores of a group of rows foretell what training without it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from headwater.errors import DataError, UsageError
from headwater.evaluation.columns import Column, Graded, graded
from headwater.evaluation.metrics.groups import pearson_over_groups
from headwater.evaluation.metrics.leave_one_out import effects
from headwater.evaluation.plan import Removals, RowSet
from headwater.evaluation.removals import Seen, said_seeds
from headwater.evaluation.scoring import Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.runs import Corpus

LEAST = 3


def groups_of(corpus: Corpus, column: str, *, seed: int) -> list[RowSet]:
    """The rows of each value of a column, in a drawn order of the values; rows without a value are in no group.

    Raises DataError where there is no such column, or it holds lists, UsageError for fewer than 3 groups.
    """
    rows: dict[object, list[int]] = defaultdict(list)
    for row, value in enumerate(plain_values(corpus, column)):
        if value is not None:
            rows[value].append(row)
    if len(rows) < LEAST:
        raise UsageError(f"{corpus.name}, column {column!r}: makes {len(rows):,} groups; groups needs {LEAST} or more.")
    order = np.random.default_rng([seed, 4]).permutation(len(rows))
    found = [tuple(group) for group in rows.values()]
    return [found[number] for number in order]


def plain_values(corpus: Corpus, column: str) -> list[object]:
    """A column's values, which can be compared. Raises DataError naming the columns there are."""
    if column not in corpus.table.column_names:
        names = ", ".join(corpus.table.column_names)
        raise DataError(f"{corpus.name}: has no column {column!r}. It has: {names}.")
    values = corpus.table.column(column)
    if pa.types.is_nested(values.type):
        raise DataError(f"{corpus.name}, column {column!r}: holds {values.type}; it must hold single values.")
    return list(values.to_pylist())


def group_sets(corpus: Corpus, settings: EvaluateSettings) -> Removals[RowSet]:
    """All rows in any case, then everything but each group. Raises what `groups_of` raises."""
    groups = groups_of(corpus, str(settings.group_column), seed=settings.seed)
    return Removals(((),), tuple((group,) for group in groups))


def groups_column(scored: Sequence[Scored], seen: Seen, groups: Sequence[RowSet], settings: EvaluateSettings) -> Graded:
    """Correlation over the groups that were left out."""
    losses = seen.found.losses
    without = np.stack([seen.of(group, losses) for group in groups])
    found = effects(without, seen.of((), losses))
    protocol = (
        f"{len(groups):,} groups of column {settings.group_column!r} left out one at a time "
        f"({min(map(len, groups)):,} to {max(map(len, groups)):,} of {scored[0].scores.shape[1]:,} rows), "
        f"{said_seeds(settings)}; Pearson"
    )
    about = "correlation of a group's summed scores with the rise of the loss when it is left out, mean over queries"
    column = Column("groups", "groups", "higher", protocol, about)
    return graded(
        column, scored, lambda one: pearson_over_groups(one.scores, groups, found), seed=settings.seed
    )  # fmt: skip
