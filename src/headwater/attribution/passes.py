"""Taking rows through the checkpoints of a run: models that stay loaded, rows that are tokenized once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedModel

from headwater.gradients import Batch, batch_tokens, encoded_batches
from headwater.models.load import load_model
from headwater.progress import stage
from headwater.runs import Checkpoint, Run
from headwater.store import RowRange, StoredCheckpoint

_KEPT_BYTES = 2 << 30  # of models kept in memory between questions


class Models:
    """The checkpoints of a run as loaded models, kept while they fit into 2 GiB."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._kept: dict[tuple[str, bool], PreTrainedModel] = {}

    def load(self, checkpoint: Checkpoint, *, merged: bool = True) -> PreTrainedModel:
        """Return the model of a checkpoint, in float32 and evaluation mode; its adapter merged into it, or beside."""
        key = (checkpoint.fingerprint, merged)
        if key not in self._kept:
            stage(f"loading the model of {checkpoint.name}")
            model = load_model(checkpoint.path, checkpoint.auto, device=self.device, merge=merged)
            model.eval()  # type: ignore[no-untyped-call]
            size = sum(parameter.nbytes for parameter in model.parameters())
            while self._kept and size * (len(self._kept) + 1) > _KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = model
        return self._kept[key]


class Passes:
    """The passes of a build: a range of rows is tokenized once and taken through every checkpoint."""

    def __init__(
        self, run: Run, checkpoints: Sequence[Checkpoint], device: str, *, models: Models | None = None
    ) -> None:
        self.run = run
        self.models = models or Models(device)
        self.truncated = 0
        self._by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        self._tokens = batch_tokens(device)
        self._batches: tuple[RowRange, list[Batch]] | None = None

    def narrowed(self, rows: Int64[np.ndarray, "n"]) -> Passes:
        """Return passes over some rows of the corpus, numbered from 0; `self` when they are all of them in order."""
        if len(rows) == len(self.run.corpus):
            return self
        fewer = replace(self.run, corpus=self.run.corpus.take(rows.tolist()))
        return Passes(fewer, list(self._by_name.values()), self.models.device, models=self.models)

    def checkpoint(self, stored: StoredCheckpoint) -> Checkpoint:
        """Return the run's own checkpoint."""
        return self._by_name[stored.name]

    def model(self, stored: StoredCheckpoint, *, merged: bool = True) -> PreTrainedModel:
        """Return the model of a checkpoint."""
        return self.models.load(self.checkpoint(stored), merged=merged)

    def batches(self, rows: RowRange) -> list[Batch]:
        """Return the batches of a range; those of the range in hand are kept for the next checkpoint."""
        if self._batches is None or self._batches[0] != rows:
            run = self.run
            examples = run.corpus.rows(rows.start, rows.stop)
            encodings = run.task.encode(run.tokenizer, examples)
            self.truncated += sum(encoding.truncated for encoding in encodings)
            targets = run.targets[rows.start : rows.stop]
            weights = run.corpus.weights
            if weights is not None:
                weights = weights[rows.start : rows.stop]
            batches = encoded_batches(
                run, encodings, targets, first_row=rows.start, tokens=self._tokens, weights=weights
            )
            self._batches = (rows, list(batches))
        return self._batches[1]
