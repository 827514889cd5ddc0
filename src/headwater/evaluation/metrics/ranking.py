"""The order of rows by their scores, with equal scores in the order of a seeded shuffle.

A method that gives most rows the same score (a lexical one gives them 0) has no opinion on their order. By row number
they would inherit the order of the corpus, which is often sorted by label; shuffled, it is a random removal.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

from headwater.errors import UsageError
from headwater.evaluation.metrics.arrays import checked


def top_rows(
    scores: Float[np.ndarray, "queries rows"], k: int, *, lowest: bool = False, seed: int = 0
) -> Int64[np.ndarray, "queries k"]:
    """The k rows with the highest (or lowest) scores of each query, the most extreme first.

    Equal scores stand in one shuffled order, the same for every query and every k. Raises UsageError for a k that is
    below 1 or above the number of rows.
    """
    scores = checked("scores", scores, "queries rows")
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    count = scores.shape[1]
    if not 1 <= k <= count:
        raise UsageError(f"k is {k}, but there are {count:,} rows. Ask for 1 to {count:,}.")
    place = np.random.default_rng(seed).permutation(count)
    found = np.empty((len(scores), k), dtype=np.int64)
    for query, row in enumerate(scores):
        harm = row if lowest else -row
        worst = np.partition(harm, k - 1)[k - 1]
        near = np.flatnonzero(harm <= worst)  # the k rows, and all that tie with the last of them
        found[query] = near[np.lexsort((place[near], harm[near]))[:k]]
    return found
