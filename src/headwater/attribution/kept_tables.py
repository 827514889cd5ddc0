"""Tables that take a while and hang on the index alone, or on it and some texts: made once, and kept beside it.

    INDEX/.tables/NAME-DIGEST.safetensors

The digest is of all that a table hangs on, so that one of another index, corpus or model is never read; it is deleted
when the next is written. Where the folder cannot be written, a table is made anew by each process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from headwater.attribution.index import Index
from headwater.errors import HeadwaterError, StoreError
from headwater.files import canonical_json, digest
from headwater.store.arrays import open_arrays, write_arrays

FOLDER = ".tables"  # hidden: no part of the index, and not sent to a bucket with it
_FORMAT = 1  # of the tables' contents: raise it when a table means something else

Arrays = Mapping[str, NDArray[Any]]
Facts = Mapping[str, Any]
Table = TypeVar("Table")


def kept_table(
    index: Index,
    name: str,
    make: Callable[[], Table],
    *,
    take: Callable[[Table], tuple[Facts, Arrays]],
    give: Callable[[Facts, Arrays], Table],
    of: Sequence[str] = (),
) -> Table:
    """Return the table that is kept of this index and `of` what else it hangs on; else make it, and keep it.

    `take` turns it into facts (as JSON holds them) and arrays, `give` these into the table. What is kept is read
    memory-mapped.
    """
    path = table_path(index, name, of)
    if path.exists():
        with contextlib.suppress(StoreError, KeyError, TypeError):  # damaged: made anew
            facts, arrays = open_arrays(path, lambda tensors: {key: each.numpy() for key, each in tensors.items()})
            return give(facts, arrays)
    table = make()
    told, kept = take(table)
    with contextlib.suppress(HeadwaterError, OSError):  # read-only, or full
        shapes = {key: (array.dtype, array.shape) for key, array in kept.items()}
        write_arrays(path, shapes, lambda key: [kept[key]], facts={"kind": name, **told})
        for other in path.parent.glob(f"{name}-*.safetensors"):
            if other != path:
                other.unlink(missing_ok=True)
    return table


def table_path(index: Index, name: str, of: Sequence[str] = ()) -> Path:
    """Return where the table is kept, be it there or not."""
    found = digest([str(_FORMAT), name, *_of_index(index), *of])
    return index.folder / FOLDER / f"{name}-{found}.safetensors"


def _of_index(index: Index) -> list[str]:
    """All that anything computed of an index hangs on: what is stored, the rows, and the models."""
    told = []
    for member in index.members:
        stored = None if member.tokens is None else asdict(member.tokens.manifest)
        told += [canonical_json(stored), member.run.corpus.fingerprint, canonical_json(member.run.task.to_json())]
        told += [f"{each.fingerprint} {each.weight!r}" for each in member.run.checkpoints]
    return told
