"""What a run's last checkpoint saw and said of some of its rows: one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.gradients import encoded_batches
from headwater.gradients.representations import representations
from headwater.progress import progress_bar
from headwater.runs.run import Run


@dataclass(frozen=True)
class Seen:
    """What the last checkpoint saw and said of the rows."""

    features: Float32[np.ndarray, "rows d"]
    probabilities: Float64[np.ndarray, "rows classes"]
    losses: Float64[np.ndarray, " rows"]


def look(run: Run, rows: Sequence[int], *, show: bool | None = None) -> Seen:
    """Take rows of the run's corpus through its last checkpoint: one forward pass."""
    model = run.checkpoints[-1].load()
    corpus = run.corpus.take(rows)
    encodings = run.task.encode(run.tokenizer, list(corpus))
    targets = [run.targets[row] for row in rows]
    taken: list[tuple[Int64[np.ndarray, " n"], dict[str, Float32[np.ndarray, "n *shape"]]]] = []
    with progress_bar("reading rows", len(corpus), show=show) as advance:
        for numbers, found in representations(model, encoded_batches(run, encodings, targets), run.task.losses):
            taken.append((numbers.numpy(), {name: each.numpy() for name, each in found.items() if name != "errors"}))
            advance(len(numbers))
    order = np.argsort(np.concatenate([numbers for numbers, _ in taken]))
    whole = {name: np.concatenate([found[name] for _, found in taken])[order] for name in taken[0][1]}
    logits = whole["logits"].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Seen(whole["features"], powers / powers.sum(axis=1, keepdims=True), whole["losses"].astype(np.float64))
