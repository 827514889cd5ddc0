"""Tail-patch (Chang et al. 2024, TrackStar, arXiv 2410.17413): one more step on a proponent; does the target rise?

    tailpatch(q) = mean over z in the top k of q of [ p(y_q | x_q; one step on z from theta) - p(y_q | x_q; theta) ]

theta is the last checkpoint; the step is one of the run's own optimizer at its last rate above 0 (`training.step`). p
is the probability of the query's label, or of its whole target text, exp(- summed loss); beside it stands the change of
the mean log-probability of its tokens, which does not vanish for long texts. Causal, without retraining; but it tells
what a row would teach now, not what it taught then. Differences are small, and an optimizer with momentum moves on its
own, whatever the row: compare with random rows (random scores), query by query.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from transformers import PreTrainedModel

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import same_length
from headwater.evaluation.metrics.ranking import top_rows
from headwater.progress import progress_bar
from headwater.runs import Corpus, Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training import evaluate, predict
from headwater.training.step import OneStep


@dataclass(frozen=True)
class TailPatch:
    """Changes [queries, k], the top row first: means over the first 1, 3, 5, ... columns are its usual forms."""

    rows: Int64[np.ndarray, "queries k"]
    probability: Float64[np.ndarray, "queries k"]
    """Of the label, or of the whole target text."""
    log_probability: Float64[np.ndarray, "queries k"]
    """Mean over the target's tokens, in nats; of a class, its log-probability."""
    rates: tuple[float, ...]
    """Learning rates of the step."""
    resumed: bool
    """Whether the optimizer had its state; see `OneStep`."""

    def mean(self, k: int | None = None) -> Float64[np.ndarray, " queries"]:
        """Mean change of the probability over the first k rows of each query."""
        return np.asarray(self.probability[:, :k].mean(axis=1))


def tail_patch(
    run: Run,
    queries: Corpus,
    scores: Float[np.ndarray, "queries rows"],
    *,
    k: int = 10,
    learning_rate: float | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> TailPatch:
    """Step on each distinct row of the top k lists once, and look at the queries that have it.

    The labels (target texts) of `queries` are the ones that were explained. Equal scores are shuffled by `seed`. Costs
    one step and its undoing for each distinct row, and one forward pass for each query and row. The run stays as it is.

    Raises UsageError where scores do not fit, DataError for labels that the model does not know, and what `OneStep`
    raises.
    """
    rows = top_rows(scores, k, seed=seed)
    same_length(queries=len(queries), scores=len(rows))
    if np.shape(scores)[1] != len(run.corpus):
        raise UsageError(f"scores are of {np.shape(scores)[1]:,} rows, but the run has {len(run.corpus):,}.")
    corpus_targets(run.task, queries, run.checkpoints[-1].config)
    asked = defaultdict(list)
    for query, place in np.ndindex(*rows.shape):
        asked[int(rows[query, place])].append((query, place))
    probability, log_probability = np.empty(rows.shape), np.empty(rows.shape)
    one_step = OneStep(run, learning_rate=learning_rate)
    before = _target(run, one_step.model, queries)
    with progress_bar("tail-patch", len(asked), show=show) as advance:
        for row, places in sorted(asked.items()):
            numbers = [query for query, _ in places]
            with one_step.on(run.corpus[row]) as model:
                after = _target(run, model, queries.take(numbers))
            at = tuple(np.transpose(places))
            probability[at], log_probability[at] = after - before[:, numbers]
            advance(1)
    return TailPatch(rows, probability, log_probability, one_step.rates, one_step.resumed)


def _target(run: Run, model: PreTrainedModel, queries: Corpus) -> Float64[np.ndarray, "2 queries"]:
    """Probability of each query's target, and the mean log-probability of its tokens.

    Each query is a batch of its own: in another batch its last bits would differ by as much as a small step does.
    """
    if text_task(run.task) is not None:
        found = evaluate(model, run.tokenizer, run.task, queries, batch_tokens=1, show=False)
        sums = found.sums.astype(np.float64)
        return np.stack([np.exp(-sums), -sums / np.maximum(found.tokens, 1)])
    said = predict(model, run.tokenizer, run.task, queries, batch_tokens=1, show=False)
    logs = torch.log_softmax(torch.from_numpy(said.logits).double(), dim=-1).numpy()
    own = logs[np.arange(len(queries)), said.targets]
    return np.stack([np.exp(own), own])
