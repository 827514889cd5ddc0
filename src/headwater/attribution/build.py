"""Building the token gradients of a run: one forward and one activation-backward pass a batch and checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from headwater.attribution.passes import Passes
from headwater.errors import HeadwaterError, HeadwaterWarning, RunError, StoreError
from headwater.files import read_json, write_json
from headwater.gradients import TokenGradients, token_gradients
from headwater.models.load import tokenizer_fingerprint
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Corpus, Run
from headwater.store import RANGE_ROWS, Manifest, PostingDtype, RowRange, StoredCheckpoint, build_store, built_with
from headwater.store.manifest import NAME as MANIFEST

EXAMPLES = "examples.parquet"
SOURCE = "source.json"
"""Where the run lies. It is no part of the index's bytes: moving the run changes nothing else."""


def build_tokens(
    run: Run,
    folder: Path,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: PostingDtype,
    max_words: int | None,
    energy: float | None,
    device: str,
    show: bool | None,
    kept: bool = False,
) -> None:
    """Write what is missing of the token gradients of `run` into `folder` (see `Index.build`).

    `kept`: the run's corpus is one that the index was given (see `write_source`).
    """
    plan = plan_tokens(run, checkpoints=checkpoints, dtype=dtype, max_words=max_words, energy=energy, device=device)
    passes = Passes(run, checkpoints, device)
    with progress_bar("index", len(run.corpus) * len(checkpoints), show=show) as advance:

        def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
            for gradients in token_gradients(passes.model(checkpoint), passes.batches(rows), run.task.losses):
                yield gradients
                advance(int(torch.unique_consecutive(gradients.rows).numel()))

        build_store(folder, plan, gradients_of, others={EXAMPLES: partial(save_examples, run.corpus)}, kept=advance)
    write_source(run, folder, kept=kept)
    warn_of_cuts(passes)


def write_source(run: Run, folder: Path, *, kept: bool = False) -> None:
    """Write down where the run of an index lies; and that the index goes by a corpus of its own, if it was given one.

    That is written down before any file of another corpus is, so that it is never taken for one of the run's.
    """
    source = {"run": os.path.relpath(run.folder.resolve(), folder.resolve())}
    write_json(folder / SOURCE, {**source, "corpus": "kept"} if kept else source)


def warn_of_cuts(*passes: Passes) -> None:
    """Say how many rows were cut at the task's limit."""
    truncated = sum(each.truncated for each in passes)
    if truncated:
        warnings.warn(
            f"{truncated:,} rows are longer than {passes[0].run.task.max_length} tokens and were cut, as in training.",
            HeadwaterWarning,
            stacklevel=4,
        )


def plan_tokens(
    run: Run,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: PostingDtype,
    max_words: int | None,
    energy: float | None = None,
    device: str = "cpu",
) -> Manifest:
    """Say what an index of this run will hold; nothing is computed.

    Raises RunError when all weights are zero, StoreError for an option of storage that means nothing.
    """
    check_weights(run, checkpoints)
    if dtype not in get_args(PostingDtype):
        raise StoreError(f"dtype must be float16, float32, int8 or int4; it is {dtype!r}.")
    if energy is not None and not (isinstance(energy, float) and 0 < energy < 1):
        raise StoreError(
            f"energy is a share of the squared norms, above 0 and below 1 (0.999), or None for all; it is {energy!r}."
        )
    if max_words is not None and not 1 <= max_words <= 254:
        raise StoreError(f"max_words must be 1 to 254, or None for all words; it is {max_words}.")
    return Manifest(
        method="tracin-we",
        dtype=dtype,
        max_words=max_words,
        energy=energy,
        special_tokens=special_tokens(run),
        **of_run(run, checkpoints, device),
    )


def check_weights(run: Run, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise RunError when all weights are zero."""
    if not any(checkpoint.weight for checkpoint in checkpoints):
        raise RunError(
            f"{run.folder}: the weights of all chosen checkpoints are 0, so every score would be 0. "
            "Give weights with hw.Run.create(folder, checkpoints=[(path, weight), ...])."
        )


def of_run(run: Run, checkpoints: Sequence[Checkpoint], device: str) -> dict[str, Any]:
    """Say what every manifest says of the run: model, tokenizer, task, ranges of rows, checkpoints, what built it."""
    return {
        "model": str((checkpoints[-1].config.architectures or ["?"])[0]),
        "tokenizer": tokenizer_fingerprint(run.tokenizer),
        "task": run.task.to_json(),
        "ranges": ranges_of(run.corpus),
        "checkpoints": tuple(map(stored, checkpoints)),
        "built_with": built_with(device),
    }


def ranges_of(corpus: Corpus) -> tuple[RowRange, ...]:
    """Cut a corpus into the ranges of rows that segments hold."""
    ranges = [(start, min(start + RANGE_ROWS, len(corpus))) for start in range(0, len(corpus), RANGE_ROWS)]
    return tuple(RowRange(start, stop, corpus.range_digest(start, stop)) for start, stop in ranges)


def stored(checkpoint: Checkpoint) -> StoredCheckpoint:
    """Return a checkpoint as files know it."""
    return StoredCheckpoint(
        checkpoint.name, checkpoint.fingerprint, checkpoint.weight, checkpoint.step, checkpoint.learning_rate
    )


def special_tokens(run: Run) -> tuple[int, ...]:
    """Return the tokens that stand for no word: [CLS], [SEP] and the like.

    An unknown word is a word, unless its token has another duty too (GPT-2's <|endoftext|> has all of them).
    """
    tokenizer = run.tokenizer
    duties = [name for name, token in tokenizer.special_tokens_map.items() if token == tokenizer.unk_token]
    unknown = {tokenizer.unk_token_id} if duties == ["unk_token"] else set()
    return tuple(sorted(set(tokenizer.all_special_ids) - unknown))


def save_examples(corpus: Corpus, path: Path) -> None:
    """Write the table of examples that answers are shown from; one that is there must be of the same corpus."""
    if path.exists() and Corpus.read(path).fingerprint != corpus.fingerprint:
        raise StoreError(
            f"{path.parent}: this index is of another corpus: its rows have changed. "
            "Build into another folder with --out, or delete it."
        )
    corpus.save(path)  # also where one is: the user's other columns may have changed


def find_run(folder: Path) -> Path:
    """Return where the run of an index lies. Raises StoreError when that is not known, or it has moved."""
    if not (folder / SOURCE).exists():
        if not (folder / MANIFEST).exists():
            raise StoreError(f"{folder}: no index here. Build one with `headwater index RUN`.")
        raise StoreError(f"{folder}: it is not known of which run this index is: give it, Index.open(path, run=...).")
    try:
        place = (folder / str(read_json(folder / SOURCE)["run"])).resolve()
        there = place.exists()
    except (HeadwaterError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{folder / SOURCE}: damaged ({error}). Give the run: Index.open(path, run=...).") from None
    if not there:
        raise StoreError(f"{folder}: its run has moved from {place}. Give it: Index.open(path, run=Run.open(...)).")
    return place
