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
    if queries.columns.label is not None:
        return queries.with_labels(dict(enumerate(labels)))
    name = "label" if "label" not in queries.table.column_names else "label of the query"
    table = queries.table.append_column(name, pa.array(list(labels)))
    return Corpus(table, replace(queries.columns, label=name), queries.name)


def check_queries(run: Run, queries: Corpus) -> None:
    """Find before the first retraining what would be found after it. Raises DataError."""
    if (queries.columns.text_pair is not None) != (run.corpus.columns.text_pair is not None):
        raise DataError(f"{queries.name}: queries and corpus must both have a second text, or neither.")
    if text_task(run.task) is None and queries.columns.label is None:
        raise DataError(f"{queries.name}: these queries have no labels. Name their column: Columns(label=...).")
    corpus_targets(run.task, queries, run.checkpoints[-1].config)
