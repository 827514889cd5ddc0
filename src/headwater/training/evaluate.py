"""How well a language model knows the texts of a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import UsageError
from headwater.models.buckets import length_buckets
from headwater.progress import progress_bar
from headwater.runs.corpus import Corpus
from headwater.runs.language import first_choices, summed
from headwater.runs.task import Task, text_task


@dataclass(frozen=True)
class Evaluation:
    """The loss of every row's target text, in the order of the corpus's rows."""

    sums: Float32[np.ndarray, " rows"]
    """Cross entropy in nats, summed over the row's target tokens."""
    tokens: Int64[np.ndarray, " rows"]
    """How many target tokens each row has."""
    first: Int64[np.ndarray, " rows"]
    """How many of them are the model's first choice, given the right tokens before."""

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def loss(self) -> float:
        """Mean loss of a token, over all tokens, in nats."""
        return float(self.sums.sum(dtype=np.float64) / self.tokens.sum())

    @property
    def accuracy(self) -> float:
        """Share of all target tokens that are the model's first choice (token accuracy)."""
        return float(self.first.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    corpus: Corpus,
    *,
    batch_tokens: int = 2048,
    title: str = "evaluating",
    show: bool | None = None,
) -> Evaluation:
    """Run a language model over a corpus, rows of like length together, in evaluation mode.

    Raises UsageError for a task whose target is a class: `predict` is for those.
    """
    language = text_task(task)
    if language is None:
        raise UsageError(f"a {task.kind} task predicts classes. See headwater.training.predict.")
    encodings = task.encode(tokenizer, list(corpus))
    sums = np.zeros(len(corpus), dtype=np.float32)
    tokens, first = np.zeros((2, len(corpus)), dtype=np.int64)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with progress_bar(title, len(corpus), show=show) as advance:
            for rows in length_buckets([len(encoding.looked_up) for encoding in encodings], batch_tokens):
                batch = task.collate([encodings[row] for row in rows], tokenizer)
                logits, targets = language.target_logits(model, {name: t.to(model.device) for name, t in batch.items()})
                found, counts = summed(logits, targets)
                sums[rows], tokens[rows] = found.cpu().numpy(), counts.cpu().numpy()
                first[rows] = first_choices(logits, targets).cpu().numpy()
                advance(len(rows))
    finally:
        model.train(was_training)
    return Evaluation(sums, tokens, first)
