"""What a search read of the bytes that it could have read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from headwater.store.postings import Postings

PAGE = 4096  # bytes that a disk, and a map of a file, bring at least


@dataclass(frozen=True)
class Touched:
    """Bytes and pages of one query. The payload is the vectors; `listed_bytes` are row numbers, norms and ranks.

    Everything counts once, however often it was read, and so does what the rows that are shown are scored again from.
    """

    postings: int
    """Of all tokens of the query, at all checkpoints: what a full scan reads."""
    payload_bytes: int
    """Their vectors."""
    pages: int
    """The pages of 4 KiB that these lie in."""
    read_postings: int
    read_bytes: int
    read_pages: int
    listed_bytes: int
    """Read of every posting of the query's tokens, to bound what it can add."""

    @property
    def share(self) -> float:
        """Return the share of the payload's bytes that was read."""
        return self.read_bytes / self.payload_bytes if self.payload_bytes else 0.0

    @property
    def page_share(self) -> float:
        """Return the share of the payload's pages that was read."""
        return self.read_pages / self.pages if self.pages else 0.0

    @classmethod
    def total(cls, several: Sequence[Touched]) -> Touched:
        """Add up what several queries read, each counted for itself."""
        return cls(*(sum(vars(each)[field.name] for each in several) for field in fields(cls)))

    def to_dict(self) -> dict[str, float]:
        """Return plain values, with the two shares."""
        return {**vars(self), "share": self.share, "page_share": self.page_share}


def vector_bytes(postings: Postings) -> int:
    """Return the bytes of one stored vector."""
    return int(postings.payload.shape[1]) * postings.payload.element_size()


def pages(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """Count the pages that hold the bytes at addresses begins[i]..ends[i], each once."""
    if len(begins) == 0:
        return 0
    first, last = begins // PAGE, (ends - 1) // PAGE
    order = np.argsort(first, kind="stable")
    first, last = first[order], last[order]
    begun = np.concatenate([[first[0] - 1], np.maximum.accumulate(last)[:-1]])  # the last page counted before each
    return int(np.maximum(last - np.maximum(first - 1, begun), 0).sum())


def joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Join arrays of which there may be none."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
