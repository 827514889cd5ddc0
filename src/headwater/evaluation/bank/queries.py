"""What a bank asks its models about: texts with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from headwater.errors import DataError, UsageError
from headwater.runs.corpus import Corpus, Label
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task


def with_labels(queries: Corpus, labels: Sequence[Label]) -> Corpus:
    """The same texts with these labels, one each: those that are to be explained, say the ones predicted."""
    if len(labels) != len(queries):
        raise UsageError(f"{queries.name}: {len(labels):,} labels for {len(queries):,} queries.")
    table, name, values = queries.table, queries.columns.label, pa.array(list(labels))
    if name is not None:  # names of classes may stand in for numbers, and the other way round
        table = table.set_column(table.column_names.index(name), name, values)
        return Corpus(table, queries.columns, queries.name)
    name = "label" if "label" not in table.column_names else "label of the query"
    return Corpus(table.append_column(name, values), replace(queries.columns, label=name), queries.name)


def check_queries(run: Run, queries: Corpus) -> None:
    """Find before the first retraining what would be found after it. Raises DataError."""
    if (queries.columns.text_pair is not None) != (run.corpus.columns.text_pair is not None):
        raise DataError(f"{queries.name}: queries and corpus must both have a second text, or neither.")
    if text_task(run.task) is None and queries.columns.label is None:
        raise DataError(f"{queries.name}: these queries have no labels. Name their column: Columns(label=...).")
    corpus_targets(run.task, queries, run.checkpoints[-1].config)
