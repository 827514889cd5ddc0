"""Building token gradients elsewhere than in this process or on this disk: on a Ray cluster, into a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headwater.attribution.build import EXAMPLES, plan_tokens, save_examples, write_source
from headwater.attribution.passes import Passes
from headwater.engines.local import local_engine
from headwater.engines.ray import ray_engine
from headwater.engines.work import EngineName, StartWorker
from headwater.gradients import TokenGradients, token_gradients
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Run
from headwater.store import Manifest, RowRange, StoredCheckpoint
from headwater.store.build import build_with, segment_writer
from headwater.store.remote import Remote
from headwater.store.segment import open_segment


class TokenWorker:
    """Writes segments of token gradients (see `engines.work.Worker`)."""

    def __init__(self, run: Run, plan: Manifest, checkpoints: Sequence[Checkpoint], device: str) -> None:
        self._passes = Passes(run, checkpoints, device)
        self.write = segment_writer(plan, self._gradients)

    @property
    def cut(self) -> int:
        """Return how many rows were longer than the task's limit, so far."""
        return self._passes.truncated

    def check(self, path: Path, rows: RowRange) -> object:
        """Raise StoreError when a segment that is there is damaged."""
        return open_segment(path)

    def _gradients(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        passes = self._passes
        return iter(token_gradients(passes.model(checkpoint), passes.batches(rows), passes.run.task.losses))


@dataclass(frozen=True)
class Elsewhere:
    """Which engine works, the address of its cluster, and where files go, if not to a folder that all nodes see."""

    engine: EngineName
    address: str | None
    remote: Remote | None


def build_tokens_elsewhere(
    run: Run,
    folder: Path,
    elsewhere: Elsewhere,
    *,
    checkpoints: Sequence[Checkpoint],
    device: str,
    show: bool | None,
    **stored: Any,
) -> int:
    """Write what is missing of the token gradients of `run`; return how many rows were cut (see `Index.build`).

    `stored` are the options of `plan_tokens`.
    """
    plan = plan_tokens(run, checkpoints=checkpoints, device=device, **stored)
    start: StartWorker = partial(TokenWorker, run, plan, checkpoints, device)
    remote, cut = elsewhere.remote, 0

    def count(rows: int) -> None:
        nonlocal cut
        cut = rows

    with progress_bar("index", len(run.corpus) * len(checkpoints), show=show) as advance:
        if elsewhere.engine == "ray":
            address = elsewhere.address
            engine = ray_engine(
                folder, start, address=address, device=device, remote=remote, advance=advance, cut=count
            )
        else:
            assert remote is not None
            engine = local_engine(remote, start, advance=advance, cut=count)
        build_with(folder, plan, engine, others={EXAMPLES: partial(save_examples, run.corpus)})
    write_source(run, folder)
    return cut
