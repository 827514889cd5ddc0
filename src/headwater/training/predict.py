"""What a model says about every row of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, UsageError
from headwater.models.buckets import PADDING_COUNTS, length_buckets
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.task import Task, corpus_targets, text_task


@dataclass(frozen=True)
class Predictions:
    """A model's answers, in the order of the corpus's rows."""

    logits: Float32[np.ndarray, "rows classes"]
    names: tuple[str, ...]
    """The label of each class."""
    targets: Int64[np.ndarray, " rows"] | None
    """Class numbers of the corpus's labels; None where it has none."""

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def log_probabilities(self) -> Float32[np.ndarray, "rows classes"]:
        """Natural logarithms of the probabilities, computed in float64."""
        return np.asarray(torch.log_softmax(torch.from_numpy(self.logits).double(), dim=-1).float())

    @cached_property
    def probabilities(self) -> Float32[np.ndarray, "rows classes"]:
        """The probability of each class."""
        return np.asarray(np.exp(self.log_probabilities))

    @cached_property
    def classes(self) -> Int64[np.ndarray, " rows"]:
        """The class number predicted for each row; ties go to the lower number."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def predicted(self) -> list[str]:
        """The label predicted for each row."""
        return [self.names[number] for number in self.classes]

    @property
    def true_labels(self) -> list[str]:
        """The label of each row, by the model's name for it."""
        return [self.names[number] for number in self._known()]

    @cached_property
    def losses(self) -> Float32[np.ndarray, " rows"]:
        """Cross-entropy of each row's label in nats, without label smoothing or class weights."""
        return np.asarray(-self._of_targets(self.log_probabilities))

    @cached_property
    def true_probabilities(self) -> Float32[np.ndarray, " rows"]:
        """The probability of each row's own label."""
        return self._of_targets(self.probabilities)

    @property
    def correct(self) -> np.ndarray:
        """Whether each row is predicted as labelled, bool [rows]."""
        return np.asarray(self.classes == self._known())

    @property
    def accuracy(self) -> float:
        """Share of rows predicted as labelled."""
        return float(self.correct.mean())

    def _known(self) -> Int64[np.ndarray, " rows"]:
        if self.targets is None:
            raise DataError("these predictions are of a corpus without labels, so there is nothing to compare.")
        return self.targets

    def _of_targets(self, values: Float32[np.ndarray, "rows classes"]) -> Float32[np.ndarray, " rows"]:
        return np.asarray(values[np.arange(len(self)), self._known()])


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    corpus: Corpus,
    *,
    batch_tokens: int = 4096,
    title: str = "predicting",
    show: bool | None = None,
) -> Predictions:
    """Run `model` over a corpus, rows of like length together, at most `batch_tokens` padded tokens a batch.

    The same corpus always gives the same batches. The model computes on the device it is on, in evaluation mode.
    Raises DataError for labels that the model does not know; a corpus without a label column is fine.
    """
    if text_task(task) is not None:
        raise UsageError(f"a {task.kind} task has no classes to predict. See headwater.training.evaluate.")
    encodings = task.encode(tokenizer, list(corpus))
    targets = None
    if corpus.columns.label is not None:
        targets = np.array(corpus_targets(task, corpus, model.config), dtype=np.int64)
    logits = np.zeros((len(corpus), model.config.num_labels or 0), dtype=np.float32)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with progress_bar(title, len(corpus), show=show) as advance:
            lengths = [len(encoding.input_ids) for encoding in encodings]
            equal = model.config.model_type in PADDING_COUNTS
            for rows in length_buckets(lengths, batch_tokens, equal=equal):
                batch = task.collate([encodings[row] for row in rows], tokenizer)
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                logits[rows] = task.predict(model, batch).cpu().numpy()
                advance(len(rows))
    finally:
        model.train(was_training)
    names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    return Predictions(logits, tuple(names[number] for number in range(len(names))), targets)
