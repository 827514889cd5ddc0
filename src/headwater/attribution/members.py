"""The runs behind an index: each one's store, and the checks that store and run belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headwater.attribution.build import find_run
from headwater.attribution.queries import Models
from headwater.errors import StoreError
from headwater.models.load import tokenizer_fingerprint
from headwater.runs import Checkpoint, Run
from headwater.store import Store


@dataclass(frozen=True)
class Member:
    """One run and its store; an index over several runs (seeds) has several."""

    run: Run
    store: Store
    models: Models
    checkpoints: Mapping[str, Checkpoint]
    """The run's checkpoints by fingerprint."""


def default_device() -> str:
    """Return cuda where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_member(folder: Path, run: Run | None, device: str) -> Member:
    """Open one store and check that it is of its run. Raises StoreError saying in what they differ."""
    store = Store.open(folder)
    run = run or Run.open(find_run(folder))
    manifest = store.manifest
    if tokenizer_fingerprint(run.tokenizer) != manifest.tokenizer:
        raise StoreError(f"{folder}: this index is of another tokenizer than the run's in {run.folder}. {_BUILD}")
    if run.task.to_json() != dict(manifest.task):
        raise StoreError(f"{folder}: this index is of another task or max_length than the run's. {_BUILD}")
    by_fingerprint = {checkpoint.fingerprint: checkpoint for checkpoint in run.checkpoints}
    for checkpoint in manifest.checkpoints:
        if checkpoint.fingerprint not in by_fingerprint:
            raise StoreError(
                f"{folder}: this index is of another model: no checkpoint of {run.folder} has the weights "
                f"that {checkpoint.name} had. {_BUILD}"
            )
    for rows in manifest.ranges:
        if rows.stop > len(run.corpus) or run.corpus.range_digest(rows.start, rows.stop) != rows.digest:
            raise StoreError(
                f"{folder}: this index is of another corpus: rows {rows.start + 1:,} to {rows.stop:,} differ. {_BUILD}"
            )
    if manifest.rows != len(run.corpus):
        raise StoreError(f"{folder}: the index has {manifest.rows:,} rows, the corpus {len(run.corpus):,}. {_BUILD}")
    return Member(run, store, Models(device), by_fingerprint)


_BUILD = "Build again into another folder (`headwater index RUN --out DIR`)."


def check_together(members: Sequence[Member]) -> None:
    """Refuse, by StoreError, to average what does not belong together."""
    first = members[0].store.manifest
    for member in members[1:]:
        other = member.store.manifest
        if [rows.digest for rows in other.ranges] != [rows.digest for rows in first.ranges]:
            raise StoreError(f"{member.store.folder}: only indexes of the same corpus can be averaged.")
        if other.tokenizer != first.tokenizer or dict(other.task) != dict(first.task):
            raise StoreError(f"{member.store.folder}: only runs of the same tokenizer and task can be averaged.")
        if list(member.run.label2id.items()) != list(members[0].run.label2id.items()):
            raise StoreError(
                f"{member.store.folder}: only runs of the same labels, in the same order, can be averaged."
            )
