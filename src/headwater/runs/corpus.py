"""A corpus: the rows a run was trained on, with the user's own columns and an identity for each row.

A row is known by its number, by the user's id column if there is one, and by a content hash of its text(s) *and*
label: the same text under two labels is two rows, in scores too.
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headwater.errors import DataError
from headwater.files import atomic_file, canonical_json, digest
from headwater.runs.conversation import Conversation, check_conversations, is_conversation_type
from headwater.runs.readers import COLUMNS_KEY, MIXED_KEY, columns_of, read_table

if TYPE_CHECKING:
    import datasets
    import pandas

Label = str | int

_ROW_GROUP = 16_384  # rows of a parquet row group; fixed, so that equal corpora give equal bytes
_SHOWN = 12  # labels listed
_CHUNK = 4_096  # rows turned into Python objects at a time
_MEND = "Fill it in or drop the row."


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of the user's columns hold what. `label=None`: a corpus of queries, or of plain text, without labels.

    Of a language model, `text` is the prompt (or a column of conversations) and `label` the completion.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str | None = "label"
    id: str | None = None
    weight: str | None = None
    """A column of numbers >= 0: what each row's loss counts in training, and its gradient in an index. 0: left out."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `row` counts from 0; messages count from 1."""

    row: int
    id: str | int | None
    text: str
    text_pair: str | None
    label: Label | None
    hash: str


class Corpus:
    """The rows of a training (or of queries), in order; checked when it is made, and never changed after.

    `table` holds all the user's columns, `columns` says which are text, label and id, and `name` is what messages
    call it. `Corpus.read` is the way to make one.
    """

    def __init__(self, table: pa.Table, columns: Columns, name: str) -> None:
        if table.num_rows == 0:
            raise DataError(f"{name}: no rows. Give a corpus with at least one.")
        self.table = _checked(table, columns, name)
        self.columns = columns
        self.name = name

    @classmethod
    def read(
        cls,
        source: str | Path | list[dict[str, Any]] | pa.Table | datasets.Dataset | pandas.DataFrame,
        columns: Columns | None = None,
        *,
        name: str | None = None,
    ) -> Corpus:
        """Read a corpus from a file, from rows in memory, or from a data set of the Hugging Face hub.

        A file may be .jsonl, .ndjson, .csv, .tsv (each also .gz) or .parquet; in memory it is a list of dicts, a
        `datasets.Dataset`, a `pandas.DataFrame` or a `pyarrow.Table`; `hub:owner/name[:split]` downloads. ClassLabel
        columns become their names. `columns=None` means the usual names (`text`, `label`), or those that
        `Corpus.save` wrote.

        Raises DataError, naming file, row and column: missing or empty file, broken line, missing column, null or
        blank text, null label, lone surrogate, an id that occurs twice.
        """
        table, found = read_table(source)
        saved = columns_of(table)
        if columns is None:
            columns = Columns(**saved) if saved else Columns()
        return cls(table.replace_schema_metadata(None), columns, name or found)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: int) -> Example:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has {len(self):,} rows; there is no row {row:,} (counted from 0).")
        row %= len(self)
        return self.rows(row, row + 1)[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _CHUNK):
            yield from self.rows(start, start + _CHUNK)

    def rows(self, start: int, stop: int) -> list[Example]:
        """The examples of rows [start, stop)."""
        stop = min(stop, len(self))
        texts, pairs, labels, ids = self._columns(start, stop)
        parts = zip(range(start, stop), ids, texts, pairs, labels, self.hashes[start:stop], strict=True)
        return [Example(*part) for part in parts]

    @cached_property
    def hashes(self) -> list[str]:
        """Per row, the digest of text, second text and label, and of a weight that is not 1; not of number or id."""
        made: list[str] = []
        weights = self.weights
        spelled = cache(canonical_json)  # a corpus has few labels
        for start in range(0, len(self), _CHUNK):
            texts, pairs, labels, _ = self._columns(start, min(start + _CHUNK, len(self)))
            made += [
                digest([text, "" if pair is None else pair, spelled(label), *_spelled_weight(weights, row)])
                for row, (text, pair, label) in enumerate(zip(texts, pairs, labels, strict=True), start)
            ]
        return made

    @cached_property
    def weights(self) -> list[float] | None:
        """What each row counts in training; None where all count alike."""
        if self.columns.weight is None:
            return None
        return [float(weight) for weight in self.table.column(self.columns.weight).to_pylist()]

    def taught(self) -> Corpus:
        """The rows that a training sees: all but those of weight 0. Raises DataError where there are none."""
        weights = self.weights
        if weights is None or all(weights):
            return self
        rows = [row for row, weight in enumerate(weights) if weight]
        if not rows:
            raise DataError(f"{self.name}: every row has weight 0, so there is nothing to train on.")
        return self.take(rows)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all row hashes in order."""
        return digest(self.hashes)

    def range_digest(self, start: int, stop: int) -> str:
        """Digest of the hashes and ids of rows [start, stop)."""
        ids = self._columns(start, min(stop, len(self)))[3]
        return digest([*self.hashes[start:stop], *(canonical_json(i) for i in ids)])

    def take(self, rows: Sequence[int]) -> Corpus:
        """A corpus of these rows, in this order, numbered anew from 0."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        wrong = wanted[(wanted < 0) | (wanted >= len(self))]
        if wrong.size:
            raise DataError(f"{self.name}: row {int(wrong[0]):,} asked for (from 0), but there are {len(self):,} rows.")
        return Corpus(self.table.take(pa.array(wanted)), self.columns, self.name)

    def without(self, rows: Collection[int]) -> Corpus:
        """A corpus without these rows; the others keep their order and are numbered anew from 0."""
        dropped = set(rows)
        return self.take([row for row in range(len(self)) if row not in dropped])

    def with_labels(self, changes: Mapping[int, Label]) -> Corpus:
        """A corpus in which the rows of `changes` carry another label; all else stays."""
        column = self.columns.label
        if column is None:
            raise DataError(f"{self.name}: has no labels to change.")
        labels = self.table.column(column).to_pylist()
        for row, label in changes.items():
            if not 0 <= row < len(labels):
                raise DataError(f"{self.name}: row {row:,} asked for (from 0), but there are {len(self):,} rows.")
            if type(label) is not type(labels[row]):
                what = f"the new label {label!r} is not of the kind of the old one, {labels[row]!r}."
                raise DataError.at(self.name, what, row=row + 1, column=column)
            labels[row] = label
        place = self.table.column_names.index(column)
        kind = self.table.schema.field(column).type
        table = self.table.set_column(place, column, pa.array(labels, kind))
        return Corpus(table, self.columns, self.name)

    def label_names(self) -> list[Label]:
        """The distinct labels, sorted; empty for a corpus without labels."""
        if self.columns.label is None:
            return []
        names: list[Label] = pc.unique(self.table.column(self.columns.label)).to_pylist()
        return sorted(names)

    def save(self, path: Path) -> None:
        """Write a parquet file that `Corpus.read` takes back, columns mapping included. Equal corpora, equal bytes."""
        named = asdict(self.columns)
        if self.columns.weight is None:
            del named["weight"]  # files of corpora without weights stay as they were before there were any
        metadata = {COLUMNS_KEY: canonical_json(named)}
        table = self.table.combine_chunks().replace_schema_metadata(metadata)
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)

    def __repr__(self) -> str:
        labels = self.label_names()
        shown = repr(labels) if len(labels) <= _SHOWN else f"{len(labels):,} different"
        return f"Corpus({self.name!r}, {len(self):,} rows, labels={shown})"

    def _repr_html_(self) -> str:
        shown = self.rows(0, 5)
        cells = [(str(e.row), e.text, e.text_pair, "" if e.label is None else str(e.label)) for e in shown]
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell[:200])}</td>" for cell in row if cell is not None) + "</tr>"
            for row in cells
        )
        return f"<p>{html.escape(self.name)}: {len(self):,} rows</p><table>{body}</table>"

    def _columns(self, start: int, stop: int) -> tuple[list[str], list[Any], list[Any], list[Any]]:
        part = self.table.slice(start, stop - start)
        names = (self.columns.text, self.columns.text_pair, self.columns.label, self.columns.id)
        none = [None] * part.num_rows
        made: list[list[Any]] = [part.column(name).to_pylist() if name else none for name in names]
        if is_conversation_type(self.table.schema.field(self.columns.text).type):
            made[0] = [Conversation.of(turns) for turns in made[0]]
        return made[0], made[1], made[2], made[3]


def _checked(table: pa.Table, columns: Columns, name: str) -> pa.Table:
    """Check the columns in use; return the table with them in one chunk each, of plain types."""
    for wanted in (columns.text, columns.text_pair, columns.label, columns.id, columns.weight):
        if wanted is not None and wanted not in table.column_names:
            there = ", ".join(repr(n) for n in table.column_names)
            raise DataError(f"{name}: there is no column {wanted!r}. It has {there}.")
    for column in (columns.text, columns.text_pair):
        if column is not None:
            _check_text(table, column, name)
    for column, what in ((columns.label, "label"), (columns.id, "id")):
        if column is not None:
            _check_kind(table, column, name, what)
    if columns.id is not None:
        _check_unique(table.column(columns.id), columns.id, name)
    if columns.weight is not None:
        _check_weights(table, columns.weight, name)
    return table.combine_chunks()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _first(mask: pa.ChunkedArray) -> int | None:
    """The first row where `mask` is true."""
    place = int(pc.index(mask, pa.scalar(True)).as_py())
    return None if place < 0 else place


def _check_text(table: pa.Table, column: str, name: str) -> None:
    values = table.column(column)
    row = _first(values.is_null())
    if row is not None:
        raise DataError.at(name, "there is no text.", row=row + 1, column=column, fix=_MEND)
    if is_conversation_type(values.type):
        check_conversations(values, column, name)
        return
    kinds = _mixed_kinds(table, column)
    if kinds is not None or not _is_text(values.type):
        row = 0 if kinds is None else next(i for i, kind in enumerate(kinds) if kind is not str)
        what = f"not text but {values.type if kinds is None else kinds[row].__name__}."
        raise DataError.at(name, what, row=row + 1, column=column, fix="Texts must be strings.")
    row = _first(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0))
    if row is not None:
        raise DataError.at(name, "the text is empty or blank.", row=row + 1, column=column, fix=_MEND)


def _check_kind(table: pa.Table, column: str, name: str, what: str) -> None:
    values = table.column(column)
    row = _first(values.is_null())
    if row is None and _is_text(values.type):
        row = _first(pc.equal(values, ""))
    if row is not None:
        raise DataError.at(name, f"there is no {what}.", row=row + 1, column=column, fix=_MEND)
    kinds = _mixed_kinds(table, column)
    if kinds is not None:
        row = next(i for i, kind in enumerate(kinds) if kind not in (str, int) or kind is not kinds[0])
        wrong = f"this {what} is {kinds[row].__name__}, the first is {kinds[0].__name__}."
        fix = f"Each {what} must be text, or each a whole number."
        raise DataError.at(name, wrong, row=row + 1, column=column, fix=fix)
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        wrong = f"a {what} must be text or a whole number, not {values.type}."
        raise DataError.at(name, wrong, row=1, column=column)


def _mixed_kinds(table: pa.Table, column: str) -> list[type] | None:
    """The Python type of every value of a column of mixed types (see MIXED_KEY); None for other columns."""
    if MIXED_KEY not in (table.schema.field(column).metadata or {}):
        return None
    return [type(json.loads(text)) for text in table.column(column).to_pylist()]


def _spelled_weight(weights: list[float] | None, row: int) -> list[str]:
    """What a weight adds to a row's digest: nothing where it changes nothing."""
    return [] if weights is None or weights[row] == 1 else [f"weight {weights[row]!r}"]


def _check_weights(table: pa.Table, column: str, name: str) -> None:
    values = table.column(column)
    row = _first(values.is_null())
    if row is not None:
        raise DataError.at(name, "there is no weight.", row=row + 1, column=column, fix="1 is the usual one.")
    kind = values.type
    if _mixed_kinds(table, column) is not None or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError.at(name, "a weight must be a number.", row=1, column=column)
    for row, weight in enumerate(values.to_pylist()):
        if not 0 <= weight < float("inf"):
            fix = "Give a number of 0 or more."
            raise DataError.at(name, f"{weight} is no weight.", row=row + 1, column=column, fix=fix)


def _check_unique(values: pa.ChunkedArray, column: str, name: str) -> None:
    if len(pc.unique(values)) == len(values):
        return
    seen: dict[Any, int] = {}
    for row, value in enumerate(values.to_pylist()):
        if value in seen:
            raise DataError.at(
                name,
                f"the id {value!r} stands in row {seen[value] + 1:,} as well.",
                row=row + 1,
                column=column,
                fix="Ids must be unique.",
            )
        seen[value] = row
