"""Columns that take rows apart into a few kinds."""

from __future__ import annotations

from headwater.runs.corpus import Corpus

SOURCE = "source"
"""The column whose values are told apart beside the labels, where there is one."""
MOST_PARTS = 12  # values of a column; more are no table


def parts_of(corpus: Corpus, column: str | None) -> list[str] | None:
    """Each row's value in a column; None where there is no such column, or where its values are many."""
    if column not in corpus.table.column_names:
        return None
    values = [str(value) for value in corpus.table.column(column).to_pylist()]
    return values if len(set(values)) <= MOST_PARTS else None
