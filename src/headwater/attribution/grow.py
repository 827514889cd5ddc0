"""An index that grows: rows of a corpus that were added or changed are indexed, those that went are dead.

Rows are known by the corpus's ids where it has them (before and after), else by their content; a row whose content
changed is a dead row and a new one. A row of the same content keeps what is stored of it, wherever it stands now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from headwater.attribution.build import (
    EXAMPLES,
    SOURCE,
    build_tokens,
    plan_tokens,
    ranges_of,
    save_examples,
    warn_of_cuts,
    write_source,
)
from headwater.attribution.kept import examples_path, kept_corpus, over, says_kept
from headwater.attribution.passes import Passes
from headwater.errors import StoreError
from headwater.gradients import TokenGradients, token_gradients
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Corpus, Run
from headwater.store import Manifest, RowRange, StoredCheckpoint
from headwater.store.compact import compact_store, settle
from headwater.store.grow import check_alike, grow_store
from headwater.store.living import read_living
from headwater.store.lock import writer_lock
from headwater.store.manifest import NAME as MANIFEST
from headwater.store.manifest import read_manifest, write_manifest


def grow_tokens(
    run: Run,
    folder: Path,
    corpus: Corpus | None,
    *,
    checkpoints: Sequence[Checkpoint],
    device: str,
    show: bool | None,
    **stored: Any,
) -> None:
    """Make the index in `folder` one of `corpus`, or finish it as it is where that is None (see `Index.build`).

    `stored` are the options of `plan_tokens`: those with which it was built. Raises StoreError when they are others.
    """
    options: dict[str, Any] = {**stored, "checkpoints": checkpoints, "device": device}
    if (folder / MANIFEST).exists():
        with writer_lock(folder):
            if _grown(run, folder, corpus, show=show, **options):
                return
    wanted = corpus or kept_corpus(folder)
    over_it = run if wanted is None else over(run, wanted)
    write_source(run, folder, kept=wanted is not None)
    build_tokens(over_it, folder, show=show, kept=wanted is not None, **options)


def _grown(run: Run, folder: Path, corpus: Corpus | None, *, show: bool | None, **options: Any) -> bool:
    """Grow; return False where the index never grew and has these rows already: then there is nothing to grow."""
    current = settle(folder, read_manifest(folder))
    before = Corpus.read(examples_path(folder, current))
    after = corpus or before
    run = over(run, after)
    plan = plan_tokens(run, **options)
    living = read_living(folder, current)
    old = matches(before, after)
    new = np.flatnonzero(old < 0)
    stored = np.where(old < 0, 0, living[old])
    stored[new] = current.rows + np.arange(len(new))
    if np.array_equal(stored, living):
        if not current.living:
            return False
        if after is before:
            write_source(run, folder, kept=True)
            write_manifest(folder, replace(current, checkpoints=check_alike(folder, current, plan)))
            return True
    write_source(run, folder, kept=True)
    _add(
        run, folder, current, plan, new, stored, checkpoints=options["checkpoints"], device=options["device"], show=show
    )
    return True


def _add(
    run: Run,
    folder: Path,
    current: Manifest,
    plan: Manifest,
    new: Int64[np.ndarray, "n"],
    stored: Int64[np.ndarray, "rows"],
    *,
    checkpoints: Sequence[Checkpoint],
    device: str,
    show: bool | None,
) -> None:
    """Index the rows `new` of the run's corpus behind those that are stored."""
    first = current.rows
    added: tuple[RowRange, ...] = ()
    passes = Passes(run, checkpoints, device)
    if len(new):
        fresh = run.corpus.take(new.tolist())
        passes = Passes(replace(run, corpus=fresh), checkpoints, device)
        added = tuple(RowRange(first + rows.start, first + rows.stop, rows.digest) for rows in ranges_of(fresh))
    with progress_bar("index", len(new) * len(checkpoints), show=show) as advance:

        def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
            taken = replace(rows, start=rows.start - first, stop=rows.stop - first)
            for gradients in token_gradients(passes.model(checkpoint), passes.batches(taken), run.task.losses):
                yield replace(gradients, rows=gradients.rows + first)
                advance(int(torch.unique_consecutive(gradients.rows).numel()))

        others = {EXAMPLES: partial(save_examples, run.corpus)}
        grow_store(folder, current, plan, added, stored, gradients_of, others=others, kept=advance)
    warn_of_cuts(passes)


def over_kept(run: Run, folder: Path, corpus: Corpus | None) -> Run:
    """Return the run over the corpus that its index in `folder` keeps, or begins to keep: `corpus`, if it is given.

    Raises StoreError when token gradients stand there and are of other rows: they lead, all else follows.
    """
    tokens = (folder / MANIFEST).exists()
    there = kept_corpus(folder)
    if there is None and tokens:  # of the run's own corpus, so far
        there = Corpus.read(examples_path(folder, read_manifest(folder)))
    wanted = corpus or there or run.corpus
    made = over(run, wanted)
    if tokens and there is not None and not np.array_equal(matches(there, wanted), np.arange(len(there))):
        raise StoreError(
            f"{folder}: its token gradients are of another corpus than {wanted.name}. Add its rows to them first "
            "(`headwater index` with the same --corpus, for the method tracin-we); the rest follows."
        )
    if not tokens:
        write_source(run, folder, kept=True)
        wanted.save(folder / EXAMPLES)
    return made


def compact_tokens(folder: Path) -> Manifest:
    """Rewrite an index without dead rows and into full ranges (see `Index.compact`); return its manifest."""
    with writer_lock(folder):
        current = settle(folder, read_manifest(folder))
        if not current.living:
            return current
        if not says_kept(folder):  # once it is compact nothing else tells it from an index of the run's own rows
            raise StoreError(f"{folder / SOURCE}: names no run for this index. Run `headwater index` first.")
        return compact_store(folder, current, ranges_of(Corpus.read(examples_path(folder, current))))


def matches(before: Corpus, after: Corpus) -> Int64[np.ndarray, "rows"]:
    """Return for every row of `after` the row of `before` that it is, with the same content; -1 for a new one."""
    by_id = before.columns.id is not None and after.columns.id is not None
    known = {key: row for row, key in enumerate(_keys(before, by_id))}
    return np.array([known.get(key, -1) for key in _keys(after, by_id)], dtype=np.int64)


def _keys(corpus: Corpus, by_id: bool) -> list[tuple[Any, str]]:
    """Return of every row its id, or else how often its content stood before it, and its content."""
    if by_id:
        return list(zip(corpus.table.column(str(corpus.columns.id)).to_pylist(), corpus.hashes, strict=True))
    seen: Counter[str] = Counter()
    keys: list[tuple[Any, str]] = []
    for content in corpus.hashes:
        keys.append((seen[content], content))
        seen[content] += 1
    return keys
