"""Building token gradients elsewhere than in this process or on this disk: on a Ray cluster, into a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from headwater.attribution.build import EXAMPLES, SOURCE, plan_tokens, save_examples, warn_of_cuts, write_source
from headwater.attribution.passes import Passes
from headwater.engines.local import local_engine
from headwater.engines.ray import ray_engine
from headwater.engines.work import EngineName, StartWorker
from headwater.errors import StoreError, UsageError
from headwater.files import read_json, write_json
from headwater.gradients import TokenGradients, token_gradients
from headwater.methods.method import Need
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Run
from headwater.store import Manifest, RowRange, StoredCheckpoint
from headwater.store.build import build_with, segment_writer
from headwater.store.remote import Remote, place_of
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

    @classmethod
    def of(cls, engine: str, address: str | None, remote: Remote | None) -> Elsewhere | None:
        """Return None where the work is done here, into a folder. Raises UsageError."""
        if engine not in get_args(EngineName):
            raise UsageError(f"engine must be {' or '.join(get_args(EngineName))}; it is {engine!r}.")
        if engine == "local" and address is not None:
            raise UsageError("an address is that of a Ray cluster: say engine ray too.")
        return None if engine == "local" and remote is None else cls(engine, address, remote)  # type: ignore[arg-type]

    def check(self, need: Need, *, grows: bool) -> None:
        """Raise UsageError where the engine cannot build this."""
        if self.engine == "ray" and need != "tokens":
            raise UsageError("the engine ray builds token gradients alone, so far. Leave the engine out.")
        if self.engine == "ray" and grows:
            raise UsageError(
                "the engine ray builds an index of the run's own corpus; one that grows needs engine local."
            )

    @contextmanager
    def mirrored(self, run: Run, need: Need) -> Iterator[None]:
        """Bring the mirror of a bucket up to date; afterwards send what was built, the manifest last."""
        if self.remote is None:
            yield
            return
        self.remote.pull(segments=self.engine == "local" or need != "tokens")
        yield
        source = self.remote.folder / SOURCE
        write_json(source, {**read_json(source), "run": str(run.folder.resolve())})  # relative to where, in a bucket?
        self.remote.push()


def fetched(place: str | Path) -> Path:
    """Return the folder of an index; one in a bucket is fetched first. Raises StoreError, UsageError."""
    folder, remote = place_of(place)
    if remote is not None and not remote.pull():
        raise StoreError(
            f"{remote.url}: no index here. Check the URL, or build one there: headwater index RUN --out URL"
        )
    return folder


def build_tokens_elsewhere(
    run: Run,
    folder: Path,
    elsewhere: Elsewhere,
    *,
    checkpoints: Sequence[Checkpoint],
    device: str,
    show: bool | None,
    **stored: Any,
) -> None:
    """Write what is missing of the token gradients of `run` into `folder`, or its bucket (see `Index.build`).

    `stored` are the options of `plan_tokens`.
    """
    plan = plan_tokens(run, checkpoints=checkpoints, device=device, **stored)
    start: StartWorker = partial(TokenWorker, run, plan, checkpoints, device)
    passes = Passes(run, checkpoints, device)

    def cut(rows: int) -> None:
        passes.truncated = rows

    with progress_bar("index", len(run.corpus) * len(checkpoints), show=show) as advance:
        if elsewhere.engine == "ray":
            address, remote = elsewhere.address, elsewhere.remote
            engine = ray_engine(folder, start, address=address, device=device, remote=remote, advance=advance, cut=cut)
        else:
            assert elsewhere.remote is not None
            engine = local_engine(elsewhere.remote, start, advance=advance, cut=cut)
        build_with(folder, plan, engine, others={EXAMPLES: partial(save_examples, run.corpus)})
    write_source(run, folder)
    warn_of_cuts(passes)
