"""What removing rows would take from an answer, to first order: their share of what all rows push.

    share toward = sum of the positive scores of these rows / sum of all positive scores

Retraining may find the same lesson in the rows that stay; what a proof by retraining shows is what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from headwater.errors import DataError


@dataclass(frozen=True)
class Removal:
    """The rows, their scores, and which share they hold of the push to either side (0 to 1; None: nothing pushes)."""

    rows: tuple[int, ...]
    scores: tuple[float, ...]
    toward: float | None
    away: float | None


def estimate_removal(scores: Float32[np.ndarray, "rows"], rows: Sequence[int]) -> Removal:
    """Say what some rows hold of one query's scores with all rows; each row counts once. Raises DataError."""
    chosen = sorted(set(rows))
    for row in chosen:
        if not 0 <= row < len(scores):
            raise DataError(f"the corpus has {len(scores):,} rows: there is no row {row:,} (they count from 0).")
    wide = scores.astype(np.float64)
    theirs = wide[chosen]
    return Removal(
        tuple(chosen),
        tuple(theirs.tolist()),
        _share(theirs[theirs > 0].sum(), wide[wide > 0].sum()),
        _share(theirs[theirs < 0].sum(), wide[wide < 0].sum()),
    )


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
