"""What a bank found, as arrays: the subsets that were retrained with every seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from headwater.errors import UsageError


@dataclass(frozen=True)
class Results:
    """Axes: subsets in the order of their numbers, seeds as in `seeds`, rows of the run's corpus, queries."""

    protocol: str
    """How the subsets were made, in words, for everything that is measured on them."""
    subsets: Int64[np.ndarray, " subsets"]
    """Numbers in the bank."""
    seeds: tuple[int, ...]
    masks: Bool[np.ndarray, "subsets rows"]
    """True for the rows trained on."""
    losses: Float32[np.ndarray, "subsets seeds queries"]
    probabilities: Float32[np.ndarray, "subsets seeds queries"]
    margins: Float32[np.ndarray, "subsets seeds queries"]
    seconds: Float64[np.ndarray, "subsets seeds"]
    """What each retraining took, the questions included; NaN where that was not written down."""
    label_logits: Float32[np.ndarray, "subsets seeds queries"] | None
    right: Bool[np.ndarray, "subsets seeds queries"] | None

    @property
    def logits(self) -> Float32[np.ndarray, "subsets seeds queries"]:
        """The logit of each query's label. Raises UsageError where the run's task has no classes."""
        if self.label_logits is None:
            raise UsageError("this run's target is a text, which has no logit: take losses or margins.")
        return self.label_logits

    @property
    def correct(self) -> Bool[np.ndarray, "subsets seeds queries"]:
        """Whether the label was predicted. Raises UsageError where the run's task has no classes."""
        if self.right is None:
            raise UsageError("this run's target is a text, which is neither right nor wrong: take losses.")
        return self.right

    @property
    def removals(self) -> list[tuple[int, ...]]:
        """The rows that each subset left out, ascending."""
        return [tuple(np.flatnonzero(~mask).tolist()) for mask in self.masks]
