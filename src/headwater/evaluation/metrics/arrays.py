"""What every metric refuses: arrays that do not fit each other, and numbers that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Shaped

from headwater.errors import UsageError


def checked(name: str, values: Any, axes: str) -> Shaped[np.ndarray, "..."]:
    """Return `values` as an array. Raises UsageError unless it has these axes ("queries rows") and only numbers in it.

    No axis may be empty.
    """
    found, wanted = np.asarray(values), axes.split()
    if found.ndim != len(wanted) or not all(found.shape):
        shape = ", ".join(str(length) for length in found.shape)
        raise UsageError(f"{name} must be [{', '.join(wanted)}], none of them empty, but is [{shape}].")
    if found.dtype.kind not in "biuf":
        raise UsageError(f"{name} must be numbers, not {found.dtype}.")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        first = np.argwhere(~np.isfinite(found))[0]
        place = f"[{', '.join(str(at) for at in first)}]"
        raise UsageError(
            f"{name} holds {found[tuple(first)]} at {place} of [{', '.join(wanted)}] (from 0): it cannot be graded."
        )
    return found


def same_length(**lengths: int) -> None:
    """Raise UsageError unless all these counts are equal: `same_length(scores=3, labels=4)` does."""
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise UsageError(f"these must be as many as each other: {told}.")
