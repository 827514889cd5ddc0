"""What is known of every training row without a question: self-influence, neighbours, hubs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from headwater.attribution.index import Index
from headwater.attribution.kept_tables import Arrays, Facts, kept_table
from headwater.attribution.neighbours import hub_counts, nearest_rows, same_label
from headwater.attribution.seen import look
from headwater.runs.task import text_task

NEIGHBOURS = 10
MOST_ROWS = 50_000  # neighbours cost a square of the rows


@dataclass(frozen=True)
class CorpusTable:
    """Of each row of the corpus; None: not known, and `notes` say why."""

    self_influence: Float64[np.ndarray, " rows"] | None
    same: Float64[np.ndarray, " rows"] | None
    """Share of the ten nearest rows with the row's label, 0 to 1."""
    hubs: Int64[np.ndarray, " rows"] | None
    """Of how many rows it is one of the ten nearest."""
    near: Int64[np.ndarray, "rows k"] | None
    cosines: Float64[np.ndarray, "rows k"] | None
    notes: tuple[str, ...] = ()


def corpus_table(index: Index, *, show: bool | None = None) -> CorpusTable:
    """Pass the rows through the last checkpoint once, and compare each with all; it is kept beside the index.

    Memory: 512 x rows numbers.
    """
    return kept_table(index, "corpus", lambda: _made(index, show), take=_taken, give=_given, of=[str(NEIGHBOURS)])


_ARRAYS = ("self_influence", "same", "hubs", "near", "cosines")


def _taken(table: CorpusTable) -> tuple[Facts, Arrays]:
    arrays = {name: getattr(table, name) for name in _ARRAYS}
    return {"notes": list(table.notes)}, {name: array for name, array in arrays.items() if array is not None}


def _given(facts: Facts, arrays: Arrays) -> CorpusTable:
    return CorpusTable(**{name: arrays.get(name) for name in _ARRAYS}, notes=tuple(facts["notes"]))


def _made(index: Index, show: bool | None) -> CorpusTable:
    run, rows = index.run, len(index)
    notes = []
    known = None
    if index.token_store is None:
        notes.append("Self-influence needs token gradients: headwater index RUN.")
    else:
        known = index.self_influence()
    if text_task(run.task) is not None:
        notes.append("Neighbours are known of classifiers only.")
    elif not 1 < rows <= MOST_ROWS:
        notes.append(f"Neighbours are sought among {MOST_ROWS:,} rows at most.")
    else:
        seen = look(run, range(rows), show=show)
        near, cosines = nearest_rows(seen.features, np.arange(rows), k=NEIGHBOURS)
        targets = np.asarray(run.targets)
        return CorpusTable(known, same_label(near, targets), hub_counts(near), near, cosines, tuple(notes))
    return CorpusTable(known, None, None, None, None, tuple(notes))
