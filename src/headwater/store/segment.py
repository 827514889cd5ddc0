"""Segments of postings: one file of the postings of one row range at one checkpoint (see `headwater.store.arrays`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headwater.errors import StoreError
from headwater.store.arrays import REBUILD, open_arrays, read_facts, write_arrays
from headwater.store.postings import Block, Postings, in_order

__all__ = ["open_segment", "read_facts", "write_segment"]

_PIECE = 1 << 15  # postings gathered into order at a time while the payload is written


def write_segment(
    path: Path, blocks: Iterable[Block], *, first_row: int, facts: Mapping[str, Any], energy: float | None = None
) -> None:
    """Write the postings of one row range at one checkpoint; atomic. `facts` go into the header (see `read_facts`).

    With `energy` only the strongest are written (see `store.postings.strongest`).
    """
    small, payload, order = in_order(blocks, first_row=first_row, energy=energy)
    stored: NDArray[Any] = payload.numpy()
    shapes = {name: (array.dtype, array.shape) for name, array in small.items()}
    shapes["payload"] = (stored.dtype, (len(order), *stored.shape[1:]))

    def pieces(name: str) -> Iterator[NDArray[Any]]:
        if name != "payload":
            yield small[name]
            return
        for start in range(0, len(order), _PIECE):
            yield stored[order[start : start + _PIECE]]

    write_arrays(path, shapes, pieces, facts=facts)


def open_segment(path: Path) -> Postings:
    """Open a segment memory-mapped. Raises StoreError when it is missing, truncated, or not what a segment holds."""
    facts, postings = open_arrays(path, _postings)
    _check_arrays(path, postings, facts)
    return postings


def _postings(arrays: Mapping[str, Tensor]) -> Postings:
    return Postings(
        tokens=arrays["tokens"].numpy(),
        offsets=arrays["offsets"].numpy(),
        rows=arrays["rows"].numpy(),
        norms=arrays["norms"].numpy(),
        ranks=arrays["ranks"].numpy(),
        payload=arrays["payload"],
        exponents=arrays["exponents"].numpy() if "exponents" in arrays else None,
    )


def _check_arrays(path: Path, postings: Postings, facts: Mapping[str, Any]) -> None:
    """Refuse arrays that do not fit each other: an offset beyond the end would be read as some other row."""
    count = len(postings.rows)
    offsets = postings.offsets
    small = (postings.tokens, offsets, postings.rows, postings.norms, postings.ranks)
    fits = (
        all(array.ndim == 1 for array in small)
        and [array.dtype for array in small] == [np.int64, np.int64, np.uint32, np.float32, np.uint8]
        and postings.payload.dim() == 2
        and len(postings.payload) == len(postings.norms) == len(postings.ranks) == count
        and _payload_fits(postings, count)
        and len(offsets) == len(postings.tokens) + 1
        and offsets[0] == 0
        and offsets[-1] == count
        and bool((np.diff(offsets) > 0).all())
        and bool((np.diff(postings.tokens) > 0).all())
        and _rows_fit(postings, facts)
    )
    if not fits:
        raise StoreError(f"{path}: its arrays do not fit each other: damaged. {REBUILD}")


def _payload_fits(postings: Postings, count: int) -> bool:
    """Is it float32, or float16, int8 or int4 (uint8, in pairs) with an exponent a posting?"""
    exponents = postings.exponents
    if exponents is None:
        return postings.payload.dtype == torch.float32
    short = postings.payload.dtype in (torch.float16, torch.int8, torch.uint8) and postings.dimension > 0
    return short and exponents.shape == (count,) and exponents.dtype == np.int8


def _rows_fit(postings: Postings, facts: Mapping[str, Any]) -> bool:
    """Does every local row lie within the segment's range?"""
    start, stop = facts.get("start"), facts.get("stop")
    if not (isinstance(start, int) and isinstance(stop, int)):
        return False
    return len(postings.rows) == 0 or int(postings.rows.max()) < stop - start
