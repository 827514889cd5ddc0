"""Which training rows may stand in an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int64

from headwater.errors import UsageError
from headwater.runs import Corpus

_SHOWN = 12  # values listed in a message


@dataclass(frozen=True)
class Where:
    """A filter of training rows. It changes which rows are shown, never their scores."""

    label: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """A value, or a list of values, for columns of the corpus."""
    exclude: Collection[str | int] = ()
    """Ids (of the corpus's id column, else row numbers) to leave out."""
    collapse: bool = False
    """Show rows of equal text and label once, by the strongest. Twins under different labels stay two."""

    @classmethod
    def of(cls, where: Where | Mapping[str, Any] | None) -> Where:
        """Take a Where, or a mapping: label, exclude, collapse, and any column of the corpus by its name."""
        if where is None:
            return cls()
        if isinstance(where, Where):
            return where
        known = {name: where[name] for name in ("label", "exclude", "collapse") if name in where}
        return cls(**known, columns={name: value for name, value in where.items() if name not in known})

    def mask(self, corpus: Corpus) -> Bool[np.ndarray, "rows"]:
        """Say which rows are allowed. Raises UsageError for a column, value or id that the corpus does not have."""
        allowed = np.ones(len(corpus), dtype=np.bool_)
        if self.label is not None:
            allowed &= self._equal(corpus, str(corpus.columns.label), self.label)
        for column, value in self.columns.items():
            allowed &= self._equal(corpus, column, value)
        if self.exclude:
            allowed[self._excluded(corpus)] = False
        if not allowed.any():
            raise UsageError("no row passes all of these filters together.")
        return allowed

    def _equal(self, corpus: Corpus, column: str, value: Any) -> Bool[np.ndarray, "rows"]:
        if column not in corpus.table.column_names:
            raise UsageError(
                f"the corpus has no column {column!r} to filter by. It has: {', '.join(corpus.table.column_names)}."
            )
        wanted = {str(item) for item in _several(value)}
        values = [str(item) for item in corpus.table[column].to_pylist()]
        unknown = sorted(wanted - set(values))
        if unknown:
            there = sorted(set(values))
            more = ", ..." if len(there) > _SHOWN else ""
            raise UsageError(
                f"no row has {unknown[0]!r} in column {column!r}. It has: {', '.join(there[:_SHOWN])}{more}."
            )
        return np.array([item in wanted for item in values], dtype=np.bool_)

    def _excluded(self, corpus: Corpus) -> list[int]:
        exclude = _several(self.exclude)
        if corpus.columns.id is None:
            wrong = [item for item in exclude if not str(item).isdecimal()]
            if wrong:
                raise UsageError(f"{wrong[0]!r} is no row number, and the corpus has no id column.")
            rows = [int(item) for item in exclude]
        else:
            row_of = {value: row for row, value in enumerate(corpus.table[corpus.columns.id].to_pylist())}
            unknown = [item for item in exclude if item not in row_of]
            if unknown:
                raise UsageError(f"no row has the id {unknown[0]!r}.")
            rows = [row_of[item] for item in exclude]
        for row in rows:
            if not 0 <= row < len(corpus):
                raise UsageError(f"there is no row {row}: the corpus has rows 0 to {len(corpus) - 1}.")
        return rows

    def collapsed(
        self, corpus: Corpus, scores: Float32[np.ndarray, "rows"], allowed: Bool[np.ndarray, "rows"]
    ) -> Bool[np.ndarray, "rows"]:
        """Keep one row of each text and label: the one of the largest |score|, ties to the lower row."""
        if not self.collapse:
            return allowed
        twins = _twins(corpus)
        rows = np.flatnonzero(allowed)
        order = rows[np.lexsort((rows, -np.abs(scores[rows])))]
        _, first = np.unique(twins[order], return_index=True)
        kept = np.zeros(len(corpus), dtype=np.bool_)
        kept[order[first]] = True
        return kept


def _several(value: Any) -> Collection[Any]:
    return value if isinstance(value, Collection) and not isinstance(value, str) else [value]


@lru_cache(maxsize=1)  # for the other queries of the same answer
def _twins(corpus: Corpus) -> Int64[np.ndarray, "rows"]:
    """Number the rows so that those of equal text and label have the same number."""
    return np.asarray(pc.dictionary_encode(pa.array(corpus.hashes)).indices.to_numpy(), dtype=np.int64)
