"""Of a store that grew: which stored row each row of the corpus is.

A row that was replaced or removed stays where it was stored, and no row of the corpus leads to it any more: it is
dead. The list of the living stands in one file, which the manifest names; a store without one has no dead rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from headwater.errors import StoreError
from headwater.store.arrays import REBUILD, open_arrays, write_arrays
from headwater.store.manifest import Contents

_KIND = "living"


def write_living(path: Path, stored: Int64[np.ndarray, "rows"]) -> None:
    """Write down the stored row of every row of the corpus; atomic."""
    write_arrays(path, {"rows": (np.dtype(np.int64), stored.shape)}, lambda _: [stored], facts={"kind": _KIND})


def read_living(folder: Path, manifest: Contents) -> Int64[np.ndarray, "rows"]:
    """Return the stored row of every row of the corpus. Raises StoreError when the list is missing or damaged."""
    if not manifest.living:
        return np.arange(manifest.rows)
    path = folder / manifest.living

    def hold(arrays: dict[str, Tensor]) -> Int64[np.ndarray, "rows"]:
        rows: Int64[np.ndarray, "rows"] = arrays["rows"].numpy()
        whole = rows.dtype == np.int64 and rows.ndim == 1 and len(rows) > 0
        if not whole or rows.min() < 0 or rows.max() >= manifest.rows or len(np.unique(rows)) < len(rows):
            raise ValueError("its rows are not rows of the store, each once")
        return rows.copy()

    facts, rows = open_arrays(path, hold)
    if facts.get("kind") != _KIND:
        raise StoreError(f"{path}: holds something else than a list of rows. {REBUILD}")
    return rows
