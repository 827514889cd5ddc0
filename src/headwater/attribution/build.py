"""Building an index of a run: one forward and one activation-backward pass a batch and checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from headwater.attribution.queries import Models
from headwater.errors import HeadwaterError, HeadwaterWarning, RunError, StoreError
from headwater.files import read_json, write_json
from headwater.gradients import Batch, TokenGradients, batch_tokens, encoded_batches, token_gradients
from headwater.models.load import tokenizer_fingerprint
from headwater.progress import progress_bar
from headwater.runs import Checkpoint, Corpus, Run
from headwater.store import RANGE_ROWS, Dtype, Manifest, RowRange, StoredCheckpoint, build_store, built_with
from headwater.store.manifest import NAME as MANIFEST

EXAMPLES = "examples.parquet"
SOURCE = "source.json"
"""Where the run lies. It is no part of the index's bytes: moving the run changes nothing else."""


def build_index(
    run: Run,
    folder: Path,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: Dtype,
    max_words: int | None,
    device: str,
    show: bool | None,
) -> None:
    """Write what is missing of the index of `run` into `folder` (see `Index.build`)."""
    plan = plan_index(run, checkpoints=checkpoints, dtype=dtype, max_words=max_words, device=device)
    total = len(run.corpus) * len(checkpoints)
    examples = {EXAMPLES: partial(_save_examples, run.corpus)}
    with progress_bar("index", total, show=show) as advance:
        passes = _Passes(run, checkpoints, device, advance)
        build_store(folder, plan, passes.gradients_of, others=examples, kept=advance)
    write_json(folder / SOURCE, {"run": os.path.relpath(run.folder.resolve(), folder.resolve())})
    if passes.truncated:
        warnings.warn(
            f"{passes.truncated:,} rows are longer than {run.task.max_length} tokens and were cut, as in training.",
            HeadwaterWarning,
            stacklevel=3,
        )


def plan_index(
    run: Run, *, checkpoints: Sequence[Checkpoint], dtype: Dtype, max_words: int | None, device: str = "cpu"
) -> Manifest:
    """Say what an index of this run will hold; nothing is computed. Raises RunError when all weights are zero."""
    if not any(checkpoint.weight for checkpoint in checkpoints):
        raise RunError(
            f"{run.folder}: the weights of all chosen checkpoints are 0, so every score would be 0. "
            "Give weights with hw.Run.create(folder, checkpoints=[(path, weight), ...])."
        )
    if dtype not in ("float16", "float32"):
        raise StoreError(f"dtype must be float16 or float32; it is {dtype!r}.")
    if max_words is not None and not 1 <= max_words <= 254:
        raise StoreError(f"max_words must be 1 to 254, or None for all words; it is {max_words}.")
    corpus = run.corpus
    starts = range(0, len(corpus), RANGE_ROWS)
    ranges = [(start, min(start + RANGE_ROWS, len(corpus))) for start in starts]
    return Manifest(
        method="tracin-we",
        model=str((checkpoints[-1].config.architectures or ["?"])[0]),
        tokenizer=tokenizer_fingerprint(run.tokenizer),
        task=run.task.to_json(),
        dtype=dtype,
        max_words=max_words,
        special_tokens=special_tokens(run),
        ranges=tuple(RowRange(start, stop, corpus.range_digest(start, stop)) for start, stop in ranges),
        checkpoints=tuple(
            StoredCheckpoint(
                checkpoint.name,
                checkpoint.fingerprint,
                checkpoint.weight,
                checkpoint.step,
                checkpoint.learning_rate,
            )
            for checkpoint in checkpoints
        ),
        built_with=built_with(device),
    )


def special_tokens(run: Run) -> tuple[int, ...]:
    """Return the tokens that stand for no word: [CLS], [SEP] and the like.

    An unknown word is a word, unless its token has another duty too (GPT-2's <|endoftext|> has all of them).
    """
    tokenizer = run.tokenizer
    duties = [name for name, token in tokenizer.special_tokens_map.items() if token == tokenizer.unk_token]
    unknown = {tokenizer.unk_token_id} if duties == ["unk_token"] else set()
    return tuple(sorted(set(tokenizer.all_special_ids) - unknown))


class _Passes:
    """Runs the passes of a build: a range of rows is tokenized once and taken through every checkpoint."""

    def __init__(
        self, run: Run, checkpoints: Sequence[Checkpoint], device: str, advance: Callable[[int], None]
    ) -> None:
        self._run = run
        self._models = Models(device)
        self._by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        self._tokens = batch_tokens(device)
        self._advance = advance
        self._batches: tuple[RowRange, list[Batch]] | None = None
        self.truncated = 0

    def gradients_of(self, checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        """Yield the token gradients of a row range, a batch at a time."""
        model = self._models.load(self._by_name[checkpoint.name])
        for gradients in token_gradients(model, self._encoded(rows), self._run.task.losses):
            yield gradients
            self._advance(int(torch.unique_consecutive(gradients.rows).numel()))

    def _encoded(self, rows: RowRange) -> list[Batch]:
        """Return the batches of a range; those of the range in hand are kept for the next checkpoint."""
        if self._batches is None or self._batches[0] != rows:
            run = self._run
            examples = run.corpus.rows(rows.start, rows.stop)
            encodings = run.task.encode(run.tokenizer, examples)
            self.truncated += sum(encoding.truncated for encoding in encodings)
            targets = run.targets[rows.start : rows.stop]
            batches = encoded_batches(run, encodings, targets, first_row=rows.start, tokens=self._tokens)
            self._batches = (rows, list(batches))
        return self._batches[1]


def _save_examples(corpus: Corpus, path: Path) -> None:
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
    except (HeadwaterError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / SOURCE}: damaged ({error}). Give the run: Index.open(path, run=...).") from None
    if not place.exists():
        raise StoreError(f"{folder}: its run has moved from {place}. Give it: Index.open(path, run=Run.open(...)).")
    return place
