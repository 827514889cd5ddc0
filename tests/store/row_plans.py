"""Stores of arrays a row, and what they hold: what test_rows.py and test_rows_build.py share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from headwater.store import Column, RowManifest, RowRange, RowStore, StoredCheckpoint, build_rows

Batches = Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]
Files = Callable[[Path], dict[str, bytes]]

COLUMNS = (
    Column("gradients", (9,), "float16", (2, 4, 3)),
    Column("errors", (2, 3)),
    Column("losses", ()),
)


def plan(rows: int = 10, *, size: int = 4, checkpoints: int = 2, **changes: object) -> RowManifest:
    ranges = [RowRange(start, min(start + size, rows), f"rows {start}") for start in range(0, rows, size)]
    values = {
        "kind": "layers", "model": "Bag", "tokenizer": "letters", "task": {"kind": "classification"},
        "spec": {"projector": {"seed": 0, "rank": 4}, "layers": ("a", "b")}, "columns": COLUMNS,
        "ranges": tuple(ranges), "built_with": {"torch": "2", "device": "abacus"},
        "checkpoints": tuple(StoredCheckpoint(f"c-{n}", f"{n:08x}weights", 0.5, n) for n in range(checkpoints)),
    }  # fmt: skip
    return RowManifest(**(values | changes))


def truth(column: Column, checkpoint: StoredCheckpoint, rows: int) -> torch.Tensor:
    """What a column holds of all rows: groups of very different sizes, some rows zero."""
    drawn = np.random.default_rng([ord(column.name[0]), int(checkpoint.fingerprint[:8], 16)])
    values = drawn.normal(size=(rows, *column.shape))
    if column.widths:
        values *= np.repeat([1e-12, 1.0, 1e9], column.widths)
        values[drawn.random(rows) < 0.2] = 0
    return torch.from_numpy(values.astype(np.float32))


def rows_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
    """Three rows at a time, in an order of their own."""
    order = torch.from_numpy(np.random.default_rng(rows.start).permutation(np.arange(rows.start, rows.stop)))
    for numbers in order.split(3):
        yield numbers, {column.name: truth(column, checkpoint, 100)[numbers] for column in COLUMNS}


def never(checkpoint: StoredCheckpoint, rows: RowRange) -> Batches:
    raise AssertionError(f"built again: {checkpoint.name}, rows {rows.start}")
    yield


def build(folder: Path, wanted: RowManifest, values=rows_of) -> RowStore:
    build_rows(folder, wanted, values, kept=lambda _: None)
    return RowStore.open(folder)
