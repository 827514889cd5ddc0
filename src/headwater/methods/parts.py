"""What methods are given of a block of queries and of the training rows, and what they give back.

A part is one checkpoint of one run. A method's score is a sum over parts, so several checkpoints and several runs
(seeds) are the same thing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from headwater.gradients import PlaceGradients
from headwater.store import Postings, Store, StoredCheckpoint

Made = TypeVar("Made")


@dataclass(frozen=True)
class TokenPart:
    """Token gradients: the stored postings of the rows, and what the queries pushed."""

    store: Store
    checkpoint: StoredCheckpoint
    weight: float
    """The checkpoint's weight, over the number of runs that are averaged."""
    queries: Postings
    """Token gradients of the queries, float32; their `rows` are query numbers."""
    places: PlaceGradients
    """The same gradients place by place, before they were folded."""


@dataclass(frozen=True)
class LayerSpan:
    """Where the projected gradient of one layer stands in a vector: numbers start..stop-1."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class PlaceVectors:
    """A projected layer gradient taken apart by the places of its text: `vectors` and `rest` add up to it."""

    tokens: Int64[np.ndarray, "t"]
    places: Int64[np.ndarray, "t"]
    vectors: Float32[Tensor, "t k"]
    rest: Float32[Tensor, "k"]
    """Of layers that see no single token: a pooled text, a convolution's window."""


@dataclass(frozen=True)
class LayerPart:
    """Projected layer gradients. The rows' are stored; the queries' were made by the same projection."""

    checkpoint: StoredCheckpoint
    weight: float
    """The checkpoint's weight, over the number of runs that are averaged."""
    run: int
    """Which of the runs that are averaged, counted from 0."""
    layers: tuple[LayerSpan, ...]
    queries: Float32[Tensor, "queries k"]
    query_losses: Float32[Tensor, "queries"]
    losses: Float32[Tensor, "rows"]
    blocks: Callable[[], Iterator[tuple[int, Float32[Tensor, "n k"]]]]
    """Go through the rows' gradients in order: the first row of a block, and the block."""
    take: Callable[[Int64[np.ndarray, "r"]], Float32[Tensor, "r k"]]
    """The gradients of some rows, in the order asked."""
    query_places: Callable[[int], PlaceVectors]
    row_places: Callable[[Int64[np.ndarray, "r"]], Sequence[PlaceVectors]]
    """Place by place, computed anew: one forward and backward pass of these rows."""
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What `once` made of the rows alone. Whoever gives the same one to the next question's part saves the work."""

    @property
    def rows(self) -> int:
        """Return the number of training rows."""
        return len(self.losses)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` makes of the rows, whatever the queries; made once for a `key`."""
        if key not in self.kept:
            self.kept[key] = make()
        made: Made = self.kept[key]
        return made


@dataclass(frozen=True)
class RepresentationBlock:
    """What the last layer saw and said of some rows, in order. Without classes (language models) features alone."""

    start: int
    features: Float32[Tensor, "n d"]
    """Input of the last linear layer; of a language model its mean over the places that are predicted."""
    logits: Float32[Tensor, "n c"] | None
    errors: Float32[Tensor, "n c"] | None
    """dl/d(logits): softmax - onehot for plain cross-entropy."""
    losses: Float32[Tensor, "n"]


@dataclass(frozen=True)
class RepresentationPart:
    """Representations of the rows (stored) and of the queries."""

    checkpoint: StoredCheckpoint
    weight: float
    run: int
    rows: int
    bias: bool
    """Has the last layer a bias?"""
    queries: RepresentationBlock
    blocks: Callable[[], Iterator[RepresentationBlock]]


NO_TOKEN = -1
NO_PLACE = -1


@dataclass(frozen=True)
class Contributions:
    """A query's scores with some rows, taken apart: one entry a (row, train token, place in the query, checkpoint).

    The values of a row add up to its score.
    """

    rows: Int64[np.ndarray, "c"]
    train_tokens: Int64[np.ndarray, "c"]
    """NO_TOKEN: the text as a whole."""
    query_tokens: Int64[np.ndarray, "c"]
    places: Int64[np.ndarray, "c"]
    """In the query; NO_PLACE where it is the text as a whole, or the token wherever it stands."""
    cosines: Float64[np.ndarray, "c"]
    """1 for the same token, less for a synonym; NaN where tokens are not matched at all."""
    values: Float64[np.ndarray, "c"]
    train_places: Int64[np.ndarray, "c"]
    """In the row; NO_PLACE where all places of the token share the entry."""

    @classmethod
    def whole(cls, rows: Int64[np.ndarray, "r"], scores: Float64[np.ndarray, "r"]) -> Contributions:
        """Scores of whole texts, for a method that has no words."""
        none = np.full(len(rows), NO_TOKEN, dtype=np.int64)
        return cls(rows.astype(np.int64), none, none, none, np.full(len(rows), np.nan), scores, none)

    @classmethod
    def joined(cls, pieces: Sequence[Contributions]) -> Contributions:
        """Put pieces one after the other."""
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in cls.__dataclass_fields__
        }
        return cls(**columns)

    def scores(self, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Add up the values of each row, in float64 and in their order."""
        totals = np.zeros(len(rows))
        order = np.argsort(rows)
        np.add.at(totals, order[np.searchsorted(rows, self.rows, sorter=order)], self.values)
        return totals
