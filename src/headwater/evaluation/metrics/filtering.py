"""Accuracy after filtering (Vitel & Chhabra 2026, arXiv 2511.04715): are the rows that a score calls harmful so?

    drop the lowest 30% of rows, train again, count right answers on test rows at the end of the training

Taking the best epoch, as the paper's code does, would choose by the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64
from transformers import PreTrainedModel

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked, same_length
from headwater.evaluation.metrics.ranking import top_rows
from headwater.runs import Corpus, Run
from headwater.training import predict, retrain


def kept_rows(scores: Float[np.ndarray, " rows"], *, share: float = 0.3, seed: int = 0) -> Int64[np.ndarray, " kept"]:
    """The rows that stay, ascending, when the lowest `share` (rounded) is filtered out; ties are shuffled."""
    scores = checked("scores", scores, "rows")
    gone = round(share * len(scores))
    if not 0 < gone < len(scores):
        raise UsageError(f"share {share} of {len(scores):,} rows is {gone:,} rows: some must go and some must stay.")
    return np.setdiff1d(np.arange(len(scores)), top_rows(scores[None], gone, lowest=True, seed=seed)[0])


def accuracy_after_filtering(
    run: Run,
    scores: Float[np.ndarray, " rows"],
    test: Corpus,
    *,
    seeds: Sequence[int],
    share: float = 0.3,
    train: Callable[..., PreTrainedModel] = retrain,
) -> Float64[np.ndarray, " seeds"]:
    """Accuracy on `test` after training without the lowest `share` of rows, once a seed.

    `train(run, rows=, seed=)` trains on those rows: `retrain`, or what a bank has instead. Raises UsageError where
    scores and rows do not fit, and what `retrain` and `predict` raise.
    """
    same_length(scores=len(scores), rows=len(run.corpus))
    kept = kept_rows(scores, share=share)
    models = (train(run, rows=kept.tolist(), seed=seed) for seed in seeds)
    return np.array([predict(model, run.tokenizer, run.task, test).accuracy for model in models], dtype=np.float64)
