"""Which rows a retraining sees. Values that were measured under different protocols must not be compared.

half          half of the rows, drawn at random without replacement (the usual bank for LDS)
leave-k-out   all rows but k, or but a share of them, drawn at random
remove        all rows but the ones that were named (deletion curves, filtering)
words         all rows, with named words cut out of their texts (word deletion)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from headwater.errors import UsageError

NAMES = ("half", "leave-k-out", "remove", "words")


@dataclass(frozen=True)
class Protocol:
    """`half()`, `leave_k_out(...)`, `remove()` and `cut_words()` make one."""

    name: str
    k: int | None = None
    """leave-k-out: rows left out."""
    share: float | None = None
    """leave-k-out: share of the rows left out, if it was said so."""
    seed: int = 0
    """Of the draws. Subset number n follows from the seed and n alone, however many there are."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"protocol {self.name!r} is not one of {', '.join(NAMES)}.")
        if (self.name == "leave-k-out") != ((self.k is None) != (self.share is None)):
            raise UsageError("leave-k-out takes k (rows) or share (of the rows), one of them; the others take neither.")
        if self.k is not None and self.k < 1:
            raise UsageError(f"k must be at least 1, not {self.k}.")
        if self.share is not None and not 0 < self.share < 1:
            raise UsageError(f"share is above 0 and below 1, not {self.share}.")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, but is {self.seed}.")

    @property
    def drawn(self) -> bool:
        """Whether the subsets are random; else they are named."""
        return self.name not in ("remove", "words")

    def left_out(self, rows: int) -> int:
        """How many of `rows` rows a drawn subset leaves out. Raises UsageError where none or all would be."""
        if self.name == "half":
            count = rows - rows // 2
        else:
            count = self.k if self.k is not None else round(float(self.share or 0) * rows)
        if not 0 < count < rows:
            raise UsageError(f"{self}: of {rows:,} rows, {count:,} would be left out.")
        return count

    def draw(self, rows: int, number: int) -> Bool[np.ndarray, " rows"]:
        """Subset `number` of a corpus of `rows` rows: True for the rows that are trained on. Raises UsageError."""
        if not self.drawn:
            raise UsageError("this bank removes rows that are named: name them (RetrainBank.add).")
        mask = np.ones(rows, dtype=np.bool_)
        generator = np.random.default_rng([self.seed, number])
        mask[generator.permutation(rows)[: self.left_out(rows)]] = False
        return mask

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Protocol:
        """The protocol that `to_json` described."""
        return cls(**saved)

    def __str__(self) -> str:
        if self.name == "half":
            return f"half (50% of the rows at random, seed {self.seed})"
        if self.name == "remove":
            return "remove (all rows but the named ones)"
        if self.name == "words":
            return "words (all rows, the named words cut out)"
        out = f"{self.k:,} rows" if self.k is not None else f"{self.share:.3g} of the rows"
        return f"leave-k-out ({out} left out at random, seed {self.seed})"


def half(*, seed: int = 0) -> Protocol:
    """Train on half of the rows (rounded down), drawn without replacement."""
    return Protocol("half", seed=seed)


def leave_k_out(k: int | None = None, *, share: float | None = None, seed: int = 0) -> Protocol:
    """Leave k rows out, or a share of them (0.01 is one in a hundred), drawn at random. Raises UsageError."""
    return Protocol("leave-k-out", k=k, share=share, seed=seed)


def remove() -> Protocol:
    """Leave out the rows that are named; `RetrainBank.add` names them."""
    return Protocol("remove")


def cut_words() -> Protocol:
    """Keep every row, but cut words out of the texts; `RetrainBank.add_edits` names them."""
    return Protocol("words")


def named(removals: Collection[Collection[int]], rows: int) -> Bool[np.ndarray, "subsets rows"]:
    """Masks that are False for the named rows. Raises UsageError for a row that is not there, or when none is left."""
    masks = np.ones((len(removals), rows), dtype=np.bool_)
    for mask, removal in zip(masks, removals, strict=True):
        gone = np.asarray(sorted({int(row) for row in removal}), dtype=np.int64)
        wrong = gone[(gone < 0) | (gone >= rows)]
        if wrong.size:
            raise UsageError(f"row {int(wrong[0]):,} (counted from 0) is not among the run's {rows:,} rows.")
        if len(gone) == rows:
            raise UsageError(f"removing all {rows:,} rows leaves nothing to train on.")
        mask[gone] = False
    return masks
