"""What a model says about a set of labelled texts, and which of them are worth explaining first.

Classes: accuracy, which label is taken for which, and the wrong predictions by falling loss. Language models: loss a
token, and the texts by falling loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from headwater.errors import DataError, UsageError
from headwater.runs import Corpus, Run, text_task
from headwater.training import Predictions, predict
from headwater.training.evaluate import Evaluation, evaluate

Which = Literal["wrong", "all"]


@dataclass(frozen=True)
class Overview:
    """What the last checkpoint says about `corpus`, whose rows have labels."""

    corpus: Corpus
    predictions: Predictions | None
    """Of a classifier."""
    evaluation: Evaluation | None
    """Of a language model."""

    @cached_property
    def losses(self) -> Float64[np.ndarray, "rows"]:
        """Cross entropy of every row in nats; of a language model a token of its target."""
        if self.predictions is not None:
            return self.predictions.losses.astype(np.float64)
        assert self.evaluation is not None
        return np.asarray(self.evaluation.sums.astype(np.float64) / np.maximum(self.evaluation.tokens, 1))

    @property
    def wrong(self) -> int | None:
        """How many rows are predicted otherwise than labelled; None for a language model."""
        return None if self.predictions is None else int((~self.predictions.correct).sum())

    @property
    def confusion(self) -> Int64[np.ndarray, "classes classes"] | None:
        """How often a class (first axis) was predicted as another (second axis)."""
        if self.predictions is None or self.predictions.targets is None:
            return None
        classes = len(self.predictions.names)
        found = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(found, (self.predictions.targets, self.predictions.classes), 1)
        return found

    def first(self, count: int, which: Which) -> list[int]:
        """Return the rows to explain, the highest loss first; equal ones in their order."""
        order = np.argsort(-self.losses, kind="stable")
        if which == "wrong" and self.predictions is not None:
            order = order[~self.predictions.correct[order]]
        return [int(row) for row in order[:count]]

    def said(self, rows: list[int]) -> list[str] | None:
        """Return what the model says of these rows; None for a language model."""
        return None if self.predictions is None else [self.predictions.predicted[row] for row in rows]

    def to_dict(self, rows: list[int], which: Which) -> dict[str, Any]:
        """Return plain values; `rows` are those that are explained."""
        confusion = self.confusion
        return {
            "name": self.corpus.name,
            "rows": len(self.corpus),
            "loss": float(self.losses.mean()) if self.evaluation is None else self.evaluation.loss,
            "perplexity": None if self.evaluation is None else self.evaluation.perplexity,
            "accuracy": None if self.predictions is None else self.predictions.accuracy,
            "wrong": self.wrong,
            "labels": None if self.predictions is None else list(self.predictions.names),
            "confusion": None if confusion is None else confusion.tolist(),
            "explained": rows,
            "which": which,
        }


def survey(run: Run, corpus: Corpus, *, show: bool | None = None) -> Overview:
    """Take a corpus through the run's last checkpoint. Raises DataError where it has no labels to compare with."""
    if not len(corpus):
        raise DataError(f"{corpus.name}: has no rows.")
    model = run.checkpoints[-1].load()
    if text_task(run.task) is not None:
        found = evaluate(model, run.tokenizer, run.task, corpus, title="reading queries", show=show)
        return Overview(corpus, None, found)
    if corpus.columns.label is None:
        raise DataError(f"{corpus.name}: has no column of labels: which predictions are wrong is not known.")
    return Overview(
        corpus, predict(model, run.tokenizer, run.task, corpus, title="predicting queries", show=show), None
    )


def held_out(run: Run) -> Corpus:
    """Return the rows that the run's training was evaluated on. Raises UsageError where it kept none."""
    if run.eval_corpus is None:
        raise UsageError(f"{run.folder}: this run kept no evaluation rows. Name a file of texts: --queries FILE.")
    return run.eval_corpus
