"""An opened store: segments of postings, found by checkpoint and row range; and its verification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from headwater.errors import StoreError
from headwater.store.check import Mapped, check_sizes, verify_files
from headwater.store.living import read_living
from headwater.store.manifest import Manifest, RowRange, StoredCheckpoint, read_manifest
from headwater.store.postings import SPECIAL_RANK, Postings
from headwater.store.segment import open_segment
from headwater.store.steady import read_steadily


@dataclass(frozen=True)
class Segment:
    """The postings of one row range at one checkpoint."""

    checkpoint: StoredCheckpoint
    rows: RowRange
    postings: Postings


class Store:
    """Segments on disk, opened memory-mapped when they are first asked for. Read-only; knows no texts, no models.

    `living` is the stored row of every row of the corpus; None where they are the same, as in a store that never grew.
    """

    def __init__(self, folder: Path, manifest: Manifest, living: Int64[np.ndarray, "rows"] | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.living = living
        self._opened: dict[str, tuple[Mapped, Postings]] = {}
        self._squares: dict[tuple[str, bool, int | None], NDArray[np.float64]] = {}

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a finished store. Raises StoreError when it is missing, unfinished, newer, damaged or incomplete.

        Every file's size is compared with the manifest; checksums are read by `verify` only. Beside a writer it opens
        what was there before, or what is there after, never a mix.
        """

        def read() -> Store:
            manifest = read_manifest(folder)
            check_sizes(folder, manifest)
            return cls(folder, manifest, read_living(folder, manifest) if manifest.living else None)

        return read_steadily(folder, read)

    def hold(self) -> None:
        """Open every segment now, so that none is missed when a writer deletes it: its map stays readable."""
        for rows, checkpoint in self.manifest.segments():
            self.segment(checkpoint, rows)

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return self.manifest.bytes

    def segments(self, checkpoint: StoredCheckpoint) -> Iterator[Segment]:
        """Yield the segments of one checkpoint in row order."""
        for rows in self.manifest.ranges:
            yield self.segment(checkpoint, rows)

    def segment(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Segment:
        """Return one segment."""
        name = self.manifest.segment_path(checkpoint, rows)
        if name not in self._opened:
            postings = open_segment(self.folder / name)
            self._opened[name] = Mapped.of(self.folder / name), postings
        mapped, postings = self._opened[name]
        mapped.check()
        return Segment(checkpoint, rows, postings)

    def squared_norms(
        self, checkpoint: StoredCheckpoint, *, special_tokens: bool, max_words: int | None
    ) -> NDArray[np.float64]:
        """Return each row's squared gradient norm [rows] over the postings that these options keep."""
        known = (checkpoint.fingerprint, special_tokens, max_words)
        if known not in self._squares:
            self._squares[known] = self._sum_squares(checkpoint, special_tokens, max_words)
        return self._squares[known]

    def _sum_squares(
        self, checkpoint: StoredCheckpoint, special_tokens: bool, max_words: int | None
    ) -> NDArray[np.float64]:
        squares = np.zeros(self.manifest.rows)
        for segment in self.segments(checkpoint):
            postings = segment.postings
            kept = keep_mask(postings.ranks, special_tokens=special_tokens, max_words=max_words)
            values = postings.norms.astype(np.float64) ** 2
            local = postings.rows.astype(np.int64)
            if kept is not None:
                values, local = values[kept], local[kept]
            counted = np.bincount(local, weights=values, minlength=segment.rows.stop - segment.rows.start)
            squares[segment.rows.start : segment.rows.stop] = counted
        return squares

    def verify(self) -> None:
        """Read every byte. Raises StoreError naming all files whose checksum or header is wrong."""
        try:
            verify_files(self.folder, self.manifest)
        except StoreError:
            if self._is_replaced():
                raise StoreError(f"{self.folder}: this index was changed since it was opened. Open it again.") from None
            raise

    def _is_replaced(self) -> bool:
        """Has a writer put another manifest in the place of ours?"""
        try:
            return read_manifest(self.folder) != self.manifest
        except StoreError:
            return False


def keep_mask(ranks: NDArray[np.uint8], *, special_tokens: bool, max_words: int | None) -> NDArray[np.bool_] | None:
    """Say which postings the options keep; None means all.

    `max_words` keeps the words of the largest norms (Topk); special tokens are not counted among them, and
    `special_tokens=False` drops those (NoC).
    """
    if special_tokens and max_words is None:
        return None
    kept = ranks < (SPECIAL_RANK if max_words is None else max_words)
    return kept | (ranks == SPECIAL_RANK) if special_tokens else kept
