"""What an engine is given: the segments of a plan, and how to make the worker that writes them, wherever it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from headwater.store import RowRange, StoredCheckpoint
from headwater.store.build import finish_segment
from headwater.store.manifest import Contents, FileEntry

EngineName = Literal["local", "ray"]


class Worker(Protocol):
    """Writes segments, its models loaded once."""

    @property
    def cut(self) -> int:
        """Return how many rows were longer than the task's limit, so far."""

    def write(self, path: Path, checkpoint: StoredCheckpoint, rows: RowRange) -> None:
        """Write one segment, whole or not at all; the same bytes whoever writes it."""

    def check(self, path: Path, rows: RowRange) -> object:
        """Raise StoreError when a segment that is there is damaged."""


StartWorker = Callable[[], Worker]
"""Makes a worker in the process that it is to work in; it must survive pickling to get there."""


@dataclass(frozen=True)
class Segment:
    """A file that is to be finished, and what an earlier build wrote down of it."""

    checkpoint: StoredCheckpoint
    rows: RowRange
    known: FileEntry | None

    def name(self, plan: Contents) -> str:
        """Return where it lies in an index."""
        return plan.segment_path(self.checkpoint, self.rows)

    def finish(self, folder: Path, plan: Contents, worker: Worker) -> tuple[FileEntry, bool]:
        """Keep it in `folder` or write it there (see `finish_segment`)."""
        return finish_segment(folder, plan, self.checkpoint, self.rows, worker.write, worker.check, self.known)


def segments_of(plan: Contents, known: Mapping[str, FileEntry]) -> Iterator[Segment]:
    """Go through the segments of a plan in its order."""
    for rows, checkpoint in plan.segments():
        yield Segment(checkpoint, rows, known.get(plan.segment_path(checkpoint, rows)))
