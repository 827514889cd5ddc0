"""What a plan comes to: which rows go, and what the others become. `Change.apply` makes the new corpus of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from headwater.runs.conversation import Conversation, is_conversation_type
from headwater.runs.corpus import Corpus, Label

WEIGHT = "weight"
"""The column that weights go to where the corpus has none."""


@dataclass(frozen=True)
class Change:
    """Rows count from 0, in the corpus that is changed."""

    delete: frozenset[int] = frozenset()
    labels: Mapping[int, Label] = field(default_factory=dict)
    texts: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Of each row, the new text of some of its columns."""
    weights: Mapping[int, float] = field(default_factory=dict)

    @property
    def rows(self) -> list[int]:
        """All rows that it speaks of, ascending."""
        return sorted({*self.delete, *self.labels, *self.texts, *self.weights})

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each action changes; actions that change none are left out."""
        each = {"delete": self.delete, "relabel": self.labels, "edit": self.texts, "weight": self.weights}
        return {action: len(rows) for action, rows in each.items() if rows}

    def apply(self, corpus: Corpus) -> Corpus:
        """A new corpus; `corpus` stays as it is. Rows keep their order. Raises DataError for what it cannot hold."""
        made = _with_labels(corpus, self.labels) if self.labels else corpus
        if self.texts:
            made = _with_texts(made, self.texts)
        if self.weights:
            made = _with_weights(made, self.weights)
        return made.without(self.delete) if self.delete else made

    def within(self, rows: Sequence[int]) -> Change:
        """The same change of `corpus.take(rows)`."""
        place = {row: number for number, row in enumerate(rows)}
        return Change(
            frozenset(place[row] for row in self.delete if row in place),
            _moved(self.labels, place),
            _moved(self.texts, place),
            _moved(self.weights, place),
        )


def label_of(corpus: Corpus, row: int) -> Label | None:
    """What a relabelling of the row replaces: its label; in a corpus of conversations alone, the assistant's last turn.

    None where there is neither.
    """
    example = corpus[row]
    if corpus.columns.label is None and isinstance(example.text, Conversation):
        return example.text.answer
    return example.label


def label_changes(change: Change, corpus: Corpus) -> Counter[tuple[Label | None, Label]]:
    """How many rows go from which label to which."""
    return Counter((label_of(corpus, row), label) for row, label in change.labels.items())


def _moved(changes: Mapping[int, Any], place: Mapping[int, int]) -> dict[int, Any]:
    return {place[row]: value for row, value in changes.items() if row in place}


def _with_labels(corpus: Corpus, labels: Mapping[int, Label]) -> Corpus:
    column = corpus.columns.text
    kind = corpus.table.schema.field(column).type
    if corpus.columns.label is not None or not is_conversation_type(kind):
        return corpus.with_labels(labels)
    turns = corpus.table.column(column).to_pylist()
    for row, answer in labels.items():
        turns[row] = [*turns[row][:-1], {**turns[row][-1], "content": answer}]
    at = corpus.table.column_names.index(column)
    table = corpus.table.set_column(at, corpus.table.schema.field(at), pa.array(turns, kind))
    return Corpus(table, corpus.columns, corpus.name)


def _with_texts(corpus: Corpus, changes: Mapping[int, Mapping[str, str]]) -> Corpus:
    table = corpus.table
    for column in sorted({name for texts in changes.values() for name in texts}):
        values = table.column(column).to_pylist()
        for row, texts in changes.items():
            values[row] = texts.get(column, values[row])
        at = table.column_names.index(column)
        table = table.set_column(at, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    return Corpus(table, corpus.columns, corpus.name)


def _with_weights(corpus: Corpus, changes: Mapping[int, float]) -> Corpus:
    weights = list(corpus.weights or [1.0] * len(corpus))
    for row, weight in changes.items():
        weights[row] = weight
    table, name = corpus.table, corpus.columns.weight
    if name is not None:
        made = table.set_column(table.column_names.index(name), name, pa.array(weights, pa.float64()))
        return Corpus(made, corpus.columns, corpus.name)
    name = WEIGHT
    while name in table.column_names:  # a column of the user's own stays what it is
        name += "_"
    made = table.append_column(name, pa.array(weights, pa.float64()))
    return Corpus(made, replace(corpus.columns, weight=name), corpus.name)
