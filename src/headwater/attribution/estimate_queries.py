"""What a batch of queries will cost, from asking an index a few.

    seconds = opening the index + the first query beyond the others (models are loaded, files mapped)
              + blocks * what a block takes + queries * what each takes

The last two come from a small and a larger batch. The queries asked are the run's evaluation rows, or training rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.attribution.estimate import process_bytes
from headwater.attribution.index import Index
from headwater.attribution.queries import block_size
from headwater.errors import UsageError
from headwater.methods import get_method
from headwater.runs import Corpus, Run

_FEW, _MORE = 2, 16  # queries of the two batches that are timed
_REPEATS = 2  # the quicker one counts: what disturbs makes slower


@dataclass(frozen=True)
class QueryEstimate:
    """What asking costs, the start of Python and its libraries not counted."""

    method: str
    queries: int
    seconds: float
    """`first_seconds + blocks * block_seconds + queries * query_seconds`"""
    first_seconds: float
    """Once: opening the index, loading the checkpoints."""
    blocks: int
    block_seconds: float
    """Going through what is stored once, for a block of queries."""
    query_seconds: float
    index_bytes: int
    """Of all that is stored: no more is read, and kept in the page cache if it fits."""
    memory_bytes: int
    """Of the whole process, models included, mapped files that are in memory too."""
    probe_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def estimate_queries(
    run: Run,
    folder: Path,
    count: int,
    *,
    method: str = "tracin-we",
    k: int = 10,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> QueryEstimate:
    """Estimate what `Index.open(folder).query(count queries, method=method)` takes, from about 40 queries.

    Raises StoreError where what the method reads is not built, UsageError for a count below 1 or unknown options.
    """
    if count < 1:
        raise UsageError(f"queries must be at least 1; it is {count}.")
    started = time.monotonic()
    chosen = get_method(method)
    index = Index.of(run, device=device) if chosen.need == "texts" else Index.open(folder, run=run, device=device)
    opening = time.monotonic() - started

    def seconds_of(number: int) -> float:
        asked, labels = _some(run, number)
        begun = time.monotonic()
        index.query(asked, labels, k, method=method, show=False, **(options or {}))
        return time.monotonic() - begun

    first = seconds_of(1)
    few, more = min(_FEW, count), min(_MORE, max(count, _FEW + 1))
    small, large = (min(seconds_of(number) for _ in range(_REPEATS)) for number in (few, more))
    each = max(large - small, 0.0) / (more - few)
    block = max(small - few * each, 0.0)
    blocks = -(-count // block_size(chosen, len(index)))
    once = opening + max(first - block - each, 0.0)
    return QueryEstimate(
        method=chosen.name,
        queries=count,
        seconds=once + blocks * block + count * each,
        first_seconds=once,
        blocks=blocks,
        block_seconds=block,
        query_seconds=each,
        index_bytes=index.bytes,
        memory_bytes=process_bytes(),
        probe_seconds=time.monotonic() - started,
    )


def _some(run: Run, count: int) -> tuple[Corpus, list[Any] | None]:
    """Take rows that are evenly spaced, with their labels; rows are asked twice where there are too few."""
    there = run.eval_corpus if run.eval_corpus is not None and len(run.eval_corpus) else run.corpus
    rows = [(2 * place + 1) * len(there) // (2 * count) for place in range(count)]
    asked = there.take(rows)
    label = there.columns.label
    return asked, None if label is None else asked.table.column(label).to_pylist()
