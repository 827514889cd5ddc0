"""Segments: one immutable safetensors file of the postings of one row range at one checkpoint.

The header's metadata is ONE key with canonical JSON (several keys would be written in random order), without times
or paths, so that the same input gives the same bytes. Files are opened memory-mapped; their size is compared with
what the header promises first, because touching a truncated map kills the process.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from headwater.errors import StoreError
from headwater.files import atomic_file, canonical_json
from headwater.store.postings import Block, Postings, in_order

FORMAT = 1
_KEY = "headwater"
_NAMES = {
    np.dtype(np.int64): "I64",
    np.dtype(np.uint32): "U32",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
}
_PIECE = 1 << 15  # postings gathered into order at a time while the payload is written


def write_segment(path: Path, blocks: Iterable[Block], *, first_row: int, facts: Mapping[str, Any]) -> None:
    """Write the postings of one row range at one checkpoint; atomic. `facts` go into the header (see `read_facts`)."""
    small, payload, order = in_order(blocks, first_row=first_row)
    stored: NDArray[Any] = payload.numpy()
    shapes = {name: (array.dtype, array.shape) for name, array in small.items()}
    shapes["payload"] = (stored.dtype, stored.shape)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        names = _write_header(file, shapes, {"format": FORMAT, **facts})
        for name in names:
            if name != "payload":
                file.write(np.ascontiguousarray(small[name]).data)
                continue
            for start in range(0, len(order), _PIECE):
                file.write(stored[order[start : start + _PIECE]].data)


def _write_header(
    file: BinaryIO, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], facts: Mapping[str, Any]
) -> list[str]:
    """Write a safetensors header and return the order in which the tensors must follow: widest numbers first.

    The library's own writer wants every tensor whole in memory, twice; the payload is written in pieces instead.
    """
    names = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {_KEY: canonical_json(facts)}}
    at = 0
    for name in names:
        dtype, shape = shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    return names


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a segment says of itself. Raises StoreError when it is missing, truncated or no segment."""
    header = _read_header(path)
    try:
        facts = json.loads(header["__metadata__"][_KEY])
        version = facts["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise StoreError(f"{path}: this is not a Headwater segment. {_REBUILD}") from None
    if version != FORMAT:
        raise StoreError(
            f"{path}: segment format {version}, but this Headwater reads format {FORMAT}. "
            "Upgrade Headwater (pip install -U headwater), or build the index again."
        )
    return dict(facts)


def unlike(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts that are not what was expected."""
    return [name for name, value in expected.items() if facts.get(name) != value]


def open_segment(path: Path) -> Postings:
    """Open a segment memory-mapped. Raises StoreError when it is missing, truncated, or not what a segment holds."""
    facts = read_facts(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        exponents = tensors["exponents"].numpy() if "exponents" in tensors else None
        postings = Postings(
            tokens=tensors["tokens"].numpy(),
            offsets=tensors["offsets"].numpy(),
            rows=tensors["rows"].numpy(),
            norms=tensors["norms"].numpy(),
            ranks=tensors["ranks"].numpy(),
            payload=tensors["payload"],
            exponents=exponents,
        )
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{path}: damaged segment ({error}). {_REBUILD}") from error
    _check_arrays(path, postings, facts)
    return postings


_REBUILD = "Delete it and run `headwater index` again: only what is missing is built."


def _read_header(path: Path) -> dict[str, Any]:
    """Read the header and check the file's size against it, before anything maps the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise StoreError(f"{path}: truncated inside its header. {_REBUILD}")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        promised = 8 + length + max(ends)
    except FileNotFoundError:
        raise StoreError(f"{path}: this segment is missing. {_REBUILD}") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}).") from error
    except (
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
    ) as error:
        raise StoreError(f"{path}: damaged header. {_REBUILD}") from error
    if promised != size:
        raise StoreError(f"{path}: {size:,} bytes, but its header promises {promised:,}: truncated. {_REBUILD}")
    return dict(header)


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
        raise StoreError(f"{path}: its arrays do not fit each other: damaged. {_REBUILD}")


def _payload_fits(postings: Postings, count: int) -> bool:
    """Is it float32, or float16 with an exponent a posting?"""
    exponents = postings.exponents
    if exponents is None:
        return postings.payload.dtype == torch.float32
    return postings.payload.dtype == torch.float16 and exponents.shape == (count,) and exponents.dtype == np.int8


def _rows_fit(postings: Postings, facts: Mapping[str, Any]) -> bool:
    """Does every local row lie within the segment's range?"""
    start, stop = facts.get("start"), facts.get("stop")
    if not (isinstance(start, int) and isinstance(stop, int)):
        return False
    return len(postings.rows) == 0 or int(postings.rows.max()) < stop - start
