"""The engine `ray`: each task finishes one whole file, one range of rows at one checkpoint, on any node.

A task is idempotent: a file that is there and whole is kept, and one that is not is written under another name and
renamed. So Ray may run it again when its worker or its node dies, or twice at a time, and the bytes are the same.
The driver, which holds the writer lock, writes the manifest when all files are there.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from headwater.engines.work import Segment, StartWorker, Worker, segments_of
from headwater.errors import HeadwaterError, StoreError, UsageError
from headwater.files import remove_leftovers
from headwater.store import RowRange
from headwater.store.build import Engine, built_with
from headwater.store.manifest import Contents, FileEntry
from headwater.store.remote import Remote

RETRIES = 5
"""How often a task is begun again when its worker dies; a row that kills every worker must not do so for ever."""
_AHEAD = 4  # tasks in the queue for each CPU: enough that none waits, few enough that a long list costs no memory


@dataclass(frozen=True)
class Finished:
    """What a task gives back."""

    name: str
    rows: RowRange
    entry: FileEntry
    cut: int
    """Rows that it cut at the task's limit; 0 where another task of this worker had seen the range before."""


def ray_engine(
    folder: Path,
    start: StartWorker,
    *,
    address: str | None,
    device: str,
    remote: Remote | None,
    advance: Callable[[int], object],
    cut: Callable[[int], object],
) -> Engine:
    """Return the engine that finishes segments on a Ray cluster.

    `address` is the cluster's (`auto`, `host:port`); None starts Ray on this machine, or uses the one
    that this process has joined. Every node must see the run and `folder` at the same paths, unless `remote` is
    where files go. A worker counts as one CPU and uses one thread; on cuda it has a GPU of its own.
    `advance` is told of finished rows, `cut` of rows that were cut. Raises UsageError, StoreError and whatever
    HeadwaterError a worker met.
    """

    def finish(plan: Contents, known: Mapping[str, FileEntry]) -> Iterator[tuple[str, FileEntry]]:
        seen: dict[int, int] = {}
        with joined(address) as ray:
            _remove_leftovers(folder, plan)
            ours = ray.put(_Build(plan, folder, None if remote is None else remote.url, device, start))
            task = ray.remote(_finish).options(
                num_cpus=1,
                num_gpus=1 if torch.device(device).type == "cuda" else 0,
                max_retries=RETRIES,
                scheduling_strategy="SPREAD",
            )
            for done in _run(ray, (partial(task.remote, [ours], each) for each in segments_of(plan, known))):
                if remote is None:
                    _check_shared(folder / done.name, done.entry)
                seen[done.rows.start] = max(done.cut, seen.get(done.rows.start, 0))
                advance(done.rows.stop - done.rows.start)
                yield done.name, done.entry
        _remove_leftovers(folder, plan)  # of workers that were killed
        cut(sum(seen.values()))

    return finish


@contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Give the `ray` module, connected; a connection that was made here is closed again. Raises UsageError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports to its makers
    try:
        import ray
    except ImportError:
        raise UsageError("the engine ray needs Ray: pip install 'headwater[ray]'.") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=_no_dashboard(address))
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(f"cannot join a Ray cluster at {address or 'this machine'} ({error}).") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError where nobody listens; Ray itself would try for most of a minute."""
    found = re.fullmatch(r"\[?([^/\[\]]+)\]?:([0-9]+)", address or "")
    if found is not None:
        socket.create_connection((found[1], int(found[2])), timeout=5).close()


def _no_dashboard(address: str | None) -> bool | None:
    """Ray refuses the option where it joins a cluster."""
    return False if address is None and "RAY_ADDRESS" not in os.environ else None


def _run(ray: Any, submit: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Keep a few tasks a CPU in the queue, and give their results as they come; when one fails, stop the others."""
    waiting = iter(submit)
    running: list[Any] = []
    try:
        while True:
            most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            running += [each() for each in islice(waiting, max(0, most - len(running)))]
            if not running:
                return
            done, running = ray.wait(running, num_returns=1)
            yield result_of(ray, done[0])
    finally:
        for each in running:
            ray.cancel(each)
        if running:
            ray.wait(running, num_returns=len(running), timeout=10)


def result_of(ray: Any, done: Any) -> Any:
    """Return a task's result; a worker's own error comes back as it was raised there. Raises HeadwaterError."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeadwaterError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise HeadwaterError(
            f"a Ray worker died, and so did the {RETRIES} that took its task over ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}) Often that is memory: give Ray fewer CPUs a node. Files that are "
            "finished are kept."
        ) from None


@dataclass(frozen=True)
class _Build:
    """What the tasks of one build share; sent to a process once."""

    plan: Contents
    folder: Path
    url: str | None
    device: str
    start: StartWorker


_begun: tuple[str, _Build, Worker] | None = None
"""The build that this process works for, and its worker: models are loaded once."""


def _finish(ours: list[Any], segment: Segment) -> Finished:
    """Finish one file, in a worker process. The build comes in a list, lest Ray unpack it for every task."""
    global _begun
    if _begun is None or _begun[0] != ours[0].hex():
        import ray

        build: _Build = ray.get(ours[0])
        torch.set_num_threads(1)
        _check_machine(build)
        _begun = (ours[0].hex(), build, build.start())
    _, build, worker = _begun
    before = worker.cut
    finish = _finish_remote if build.url else _finish_here
    entry = finish(build, worker, segment)
    return Finished(segment.name(build.plan), segment.rows, entry, worker.cut - before)


def _finish_here(build: _Build, worker: Worker, segment: Segment) -> FileEntry:
    return segment.finish(build.folder, build.plan, worker)[0]


def _finish_remote(build: _Build, worker: Worker, segment: Segment) -> FileEntry:
    """Finish a file in a bucket: what is there is fetched and checked, what is not is written and sent."""
    remote, name = Remote(str(build.url)), segment.name(build.plan)
    with TemporaryDirectory(prefix="headwater-") as folder:
        if remote.has(name):
            remote.fetch(name, Path(folder) / name)
        entry, was_there = segment.finish(Path(folder), build.plan, worker)
        if not was_there:
            remote.send(Path(folder) / name, name)
    return entry


def _check_machine(build: _Build) -> None:
    """Refuse a node whose bytes may differ from those that the plan promises."""
    here, planned = built_with(build.device), dict(build.plan.built_with)
    if here != planned:
        raise StoreError(
            f"node {os.uname().nodename} has {here}, but this index is built with {planned}: its bytes "
            "may differ. Use nodes of one kind, with the same torch, and start the build on one of them."
        )


def _remove_leftovers(folder: Path, plan: Contents) -> None:
    for checkpoint in plan.checkpoints:
        remove_leftovers((folder / plan.segment_path(checkpoint, plan.ranges[0])).parent)


def _check_shared(path: Path, entry: FileEntry) -> None:
    if not path.is_file() or path.stat().st_size != entry.bytes:
        raise StoreError(
            f"{path}: a worker wrote this file, but it cannot be seen here. Nodes must share the folder: choose one on "
            "a shared file system, or a bucket (s3://...), with --out."
        )
