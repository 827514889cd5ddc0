"""The engine `local`, for an index in a bucket: segments one after the other in this process, each sent when whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from headwater.engines.work import StartWorker, segments_of
from headwater.files import remove_leftovers
from headwater.store.build import Engine
from headwater.store.manifest import Contents, FileEntry
from headwater.store.remote import Remote


def local_engine(
    remote: Remote, start: StartWorker, *, advance: Callable[[int], object], cut: Callable[[int], object]
) -> Engine:
    """Return the engine that finishes segments in the mirror of `remote`, which is up to date, and sends new ones.

    `advance` is told of finished rows, `cut` of rows that were cut at the task's limit.
    """

    def finish(plan: Contents, known: Mapping[str, FileEntry]) -> Iterator[tuple[str, FileEntry]]:
        worker = start()
        for segment in segments_of(plan, known):
            name = segment.name(plan)
            remove_leftovers((remote.folder / name).parent)
            entry, was_there = segment.finish(remote.folder, plan, worker)
            if not was_there:
                remote.send(remote.folder / name, name)
            advance(segment.rows.stop - segment.rows.start)
            yield name, entry
        cut(worker.cut)

    return finish
