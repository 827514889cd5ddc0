"""Query loss difference (EleutherAI's Bergson, its leaderboard): retrain without the top 1%, against a random 1%.

    QLD(q) = E[ loss(q; retrained without the 1% of rows with the highest scores for q) ]
           - E[ loss(q; retrained without a random 1%) ]

Positive is good: the rows were needed more than others. E is over seeds, and over draws of the random rows. A case of
deletion with a single k; `deletion.gather` and `gather_random` give its arrays.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from headwater.errors import UsageError
from headwater.evaluation.metrics import deletion
from headwater.evaluation.metrics.arrays import checked

SHARE = 0.01


def plan(scores: Float[np.ndarray, "queries rows"], *, share: float = SHARE, seed: int = 0) -> deletion.Plan:
    """Plan the removal of each query's top share of the rows: rounded, and at least one. Raises UsageError."""
    return deletion.plan(scores, grid=[_count(checked("scores", scores, "queries rows").shape[1], share)], seed=seed)


def random_plan(rows: int, draws: int, *, share: float = SHARE, seed: int = 0) -> deletion.Plan:
    """Plan `draws` removals of as many random rows, which serve every query. Raises UsageError."""
    return deletion.random_plan(rows, draws, grid=[_count(rows, share)], seed=seed)


def qld(
    losses: Float[np.ndarray, "queries one retrains"], random_losses: Float[np.ndarray, "queries one draws"]
) -> Float64[np.ndarray, " queries"]:
    """QLD of each query. NaN in `losses` (a retraining that was not done) makes the query NaN. Raises UsageError."""
    control = checked("random_losses", random_losses, "queries one draws").mean(axis=(1, 2), dtype=np.float64)
    return deletion.auc(deletion.curves(losses, control))


def _count(rows: int, share: float) -> int:
    if not 0 < share < 1:
        raise UsageError(f"share is of all rows, above 0 and below 1, not {share}.")
    return max(1, round(share * rows))
