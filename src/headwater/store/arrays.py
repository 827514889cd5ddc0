"""Files of arrays: immutable safetensors files that say in their header what they hold.

The header's metadata is ONE key with canonical JSON (several keys would be written in random order), without times
or paths, so that the same input gives the same bytes. Files are opened memory-mapped; their size is compared with
what the header promises first, because touching a truncated map kills the process.
"""

from __future__ import annotations

import json
import mmap
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import StoreError
from headwater.files import atomic_file, canonical_json

FORMAT = 1
REBUILD = "Delete it and run `headwater index` again: only what is missing is built."

_KEY = "headwater"
_NAMES: Mapping[np.dtype[Any], str] = {
    np.dtype(np.int64): "I64",
    np.dtype(np.float64): "F64",
    np.dtype(np.uint32): "U32",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
}

_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

Held = TypeVar("Held")
Shapes = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Dtype and shape of each array."""


def write_arrays(
    path: Path, shapes: Shapes, pieces: Callable[[str], Iterable[NDArray[Any]]], *, facts: Mapping[str, Any]
) -> None:
    """Write a file atomically. `pieces` gives an array by its name, in pieces that follow each other.

    `facts` go into the header (see `read_facts`).
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for name in _write_header(file, shapes, {"format": FORMAT, **facts}):
            for piece in pieces(name):
                file.write(np.ascontiguousarray(piece).data)


def _write_header(file: BinaryIO, shapes: Shapes, facts: Mapping[str, Any]) -> list[str]:
    """Write a safetensors header and return the order in which the arrays must follow: widest numbers first.

    The library's own writer wants every array whole in memory, twice; large ones are written in pieces instead.
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
    """Read what a file says of itself. Raises StoreError when it is missing, truncated or no segment."""
    header = _read_header(path)
    try:
        facts = json.loads(header["__metadata__"][_KEY])
        version = facts["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise StoreError(f"{path}: this is not a Headwater segment. {REBUILD}") from None
    if version != FORMAT:
        raise StoreError(
            f"{path}: segment format {version}, but this Headwater reads format {FORMAT}. "
            "Upgrade Headwater (pip install -U headwater), or build the index again."
        )
    return dict(facts)


def unlike(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts that are not what was expected, or that nobody expected."""
    names = [*expected, *(name for name in facts if name not in expected and name != "format")]
    return [name for name in names if facts.get(name) != expected.get(name)]


def open_arrays(path: Path, hold: Callable[[dict[str, Tensor]], Held]) -> tuple[dict[str, Any], Held]:
    """Open a file memory-mapped. Returns its facts, and what `hold` makes of its arrays.

    Raises StoreError when the file is missing, truncated or damaged, or when `hold` raises KeyError, TypeError or
    ValueError: an array is not there, or not what it should be.
    """
    facts = read_facts(path)
    try:
        with safe_open(path, framework="np") as file:  # checks that every array has its place
            names = list(file.keys())
        held = hold(_mapped(path, names))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:  # torch cannot map it
        raise StoreError(f"{path}: damaged segment ({error}). {REBUILD}") from error
    return facts, held


def _mapped(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Map the arrays of a file whose header is sound. Who writes to one is killed.

    The library's own tensors lie in a map that could be written to: a kernel that counts what may be written, as
    memory limits do, counts the whole index.
    """
    header = _read_header(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    first = 8 + struct.unpack_from("<Q", data)[0]
    arrays = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for name in names:
            dtype, shape, (start, stop) = (header[name][field] for field in ("dtype", "shape", "data_offsets"))
            kind = _DTYPES[dtype]
            array = np.frombuffer(data, kind, (stop - start) // kind.itemsize, first + start).reshape(shape)
            arrays[name] = torch.from_numpy(array)
    return arrays


def _read_header(path: Path) -> dict[str, Any]:
    """Read the header and check the file's size against it, before anything maps the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise StoreError(f"{path}: truncated inside its header. {REBUILD}")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        promised = 8 + length + max(ends)
    except FileNotFoundError:
        raise StoreError(f"{path}: this segment is missing. {REBUILD}") from None
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
        raise StoreError(f"{path}: damaged header. {REBUILD}") from error
    if promised != size:
        raise StoreError(f"{path}: {size:,} bytes, but its header promises {promised:,}: truncated. {REBUILD}")
    return dict(header)
