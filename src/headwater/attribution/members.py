"""The runs behind an index: each one's store, and the checks that store and run belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from headwater.attribution.build import find_run, stored
from headwater.attribution.kept import kept_corpus, over
from headwater.attribution.layer_sets import FOLDER as LAYERS
from headwater.attribution.layer_sets import LayerSet, open_sets
from headwater.attribution.passes import Models
from headwater.attribution.representations import FOLDER as REPRESENTATIONS
from headwater.attribution.representations import open_representations
from headwater.errors import StoreError
from headwater.models.load import tokenizer_fingerprint
from headwater.runs import Checkpoint, Corpus, Run
from headwater.store import Manifest, Store, StoredCheckpoint
from headwater.store.manifest import NAME as MANIFEST
from headwater.store.rows import RowManifest, RowStore
from headwater.store.steady import read_steadily, state_of

State = tuple[tuple[str, tuple[int, int, int] | None], ...]


@dataclass(frozen=True)
class Member:
    """One run and what is indexed of it; an index over several runs (seeds) has several."""

    run: Run
    """With the corpus of the index, which is the run's own unless it was given another."""
    own: Run
    """The run as it was opened."""
    folder: Path
    tokens: Store | None
    """Token gradients, if they are indexed."""
    layer_sets: tuple[LayerSet, ...]
    representations: RowStore | None
    models: Models
    checkpoints: Mapping[str, Checkpoint]
    """The run's checkpoints by fingerprint."""
    state: State = ()
    """Of the folder, before it was opened (see `state_of_index`)."""

    @property
    def stores(self) -> tuple[Store | RowStore, ...]:
        """Return all that is stored."""
        single = [store for store in (self.tokens, self.representations) if store is not None]
        return (*single, *(each.store for each in self.layer_sets))

    @property
    def stored_checkpoints(self) -> tuple[StoredCheckpoint, ...]:
        """Return the checkpoints that are indexed; where nothing is, the run's own."""
        if self.stores:
            return self.stores[0].manifest.checkpoints
        return tuple(map(stored, self.run.checkpoints))


def default_device() -> str:
    """Return cuda where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_member(
    folder: Path, run: Run | None, device: str, *, nothing: bool = False, models: Models | None = None
) -> Member:
    """Open what is indexed in a folder and check that it is of its run. Raises StoreError saying in what they differ.

    With `nothing` a folder in which nothing is indexed will do. `models` are the run's, where some are loaded already.
    """
    state = state_of_index(folder)
    row_stores = is_indexed(folder) and not (folder / MANIFEST).exists()
    no_tokens = row_stores or (nothing and not is_indexed(folder))

    def read() -> tuple[Store | None, Corpus | None]:
        tokens = None if no_tokens else Store.open(folder)
        if tokens is not None:
            tokens.hold()
        return tokens, kept_corpus(folder)

    tokens, corpus = read_steadily(folder, read)
    own = run or Run.open(find_run(folder))
    run = own if corpus is None else over(own, corpus)
    sets, representations = open_sets(folder), open_representations(folder)
    if corpus is not None:  # what has not followed the corpus of the index is as good as not there
        sets = tuple(each for each in sets if _is_of(each.store.manifest, corpus))
        if representations is not None and not _is_of(representations.manifest, corpus):
            representations = None
    member = Member(
        run,
        own,
        folder,
        tokens,
        sets,
        representations,
        models or Models(device),
        {checkpoint.fingerprint: checkpoint for checkpoint in run.checkpoints},
        state,
    )
    for store in member.stores:
        _check(store.folder, store.manifest, member)
    return member


def is_indexed(folder: Path) -> bool:
    """Say whether anything whole is indexed in a folder."""
    return any(True for pattern in _MANIFESTS for _ in folder.glob(pattern))


_MANIFESTS = (MANIFEST, f"{LAYERS}/*/{MANIFEST}", f"{REPRESENTATIONS}/{MANIFEST}")


def state_of_index(folder: Path) -> State:
    """Return what changes when anything of an index is built, rebuilt, grown or compacted; read without opening it."""
    places = sorted(path for pattern in _MANIFESTS for path in folder.glob(pattern))
    return tuple((str(path), state_of(path.parent)) for path in places)


def _is_of(manifest: RowManifest, corpus: Corpus) -> bool:
    """Say whether files of arrays a row hold just the rows of a corpus."""
    return manifest.rows == len(corpus) and all(
        rows.digest == corpus.range_digest(rows.start, rows.stop) for rows in manifest.ranges
    )


def _check(folder: Path, manifest: Manifest | RowManifest, member: Member) -> None:
    run = member.run
    if tokenizer_fingerprint(run.tokenizer) != manifest.tokenizer:
        raise StoreError(f"{folder}: this index is of another tokenizer than the run's in {run.folder}. {_BUILD}")
    if run.task.to_json() != dict(manifest.task):
        raise StoreError(f"{folder}: this index is of another task or max_length than the run's. {_BUILD}")
    for checkpoint in manifest.checkpoints:
        if checkpoint.fingerprint not in member.checkpoints:
            raise StoreError(
                f"{folder}: this index is of another model: no checkpoint of {run.folder} has the weights "
                f"that {checkpoint.name} had. {_BUILD}"
            )
    if manifest.living:  # the corpus is the one that the index itself keeps, and the list of living rows is of it
        return
    for rows in manifest.ranges:
        if rows.stop > len(run.corpus) or run.corpus.range_digest(rows.start, rows.stop) != rows.digest:
            raise StoreError(
                f"{folder}: this index is of another corpus: rows {rows.start + 1:,} to {rows.stop:,} differ. {_BUILD}"
            )
    if manifest.rows != len(run.corpus):
        raise StoreError(f"{folder}: the index has {manifest.rows:,} rows, the corpus {len(run.corpus):,}. {_BUILD}")


_BUILD = "Build again into another folder (`headwater index RUN --out DIR`)."


def check_together(members: Sequence[Member]) -> None:
    """Refuse, by StoreError, to average what does not belong together."""
    first = members[0].run
    for member in members:
        _check_living(member, members[0])
    for member in members[1:]:
        other = member.run
        if other.corpus.fingerprint != first.corpus.fingerprint:
            raise StoreError(f"{member.folder}: only indexes of the same corpus can be averaged.")
        same_tokenizer = tokenizer_fingerprint(other.tokenizer) == tokenizer_fingerprint(first.tokenizer)
        if not same_tokenizer or other.task.to_json() != first.task.to_json():
            raise StoreError(f"{member.folder}: only runs of the same tokenizer and task can be averaged.")
        if list(other.label2id.items()) != list(first.label2id.items()):
            raise StoreError(f"{member.folder}: only runs of the same labels, in the same order, can be averaged.")


def _check_living(member: Member, first: Member) -> None:
    """Refuse a list of living rows that is not of the corpus, and stores whose rows stand in other places."""
    if member.tokens is None or first.tokens is None:
        return
    ours, count = member.tokens.living, len(member.run.corpus)
    if ours is not None and len(ours) != count:
        raise StoreError(f"{member.folder}: {len(ours):,} rows live, the corpus has {count:,}. {_BUILD}")
    stored, others = (np.arange(count) if each is None else each for each in (ours, first.tokens.living))
    if not np.array_equal(stored, others):
        raise StoreError(
            f"{member.folder}: has grown otherwise than {first.folder}. `headwater compact` both, then average them."
        )
