"""Which places of a text make a score: a layer's dot product with a query, split over the places of the example.

    <Q, G> = sum_t left_t^T Q right_t = sum_t v_t

Exact for every layer here, since gradients are sums over places. Whether a place of the layer is a place of the text
is another matter: a pooled layer has one place, a convolution's place covers several tokens, a decoder has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import UsageError
from headwater.gradients.layers.factors import Layer, LayerFactors, Outer, Part, Plain, Rows
from headwater.gradients.layers.projection import Projection, project_sides


@dataclass(frozen=True)
class Positions:
    """What each place of each example adds to its dot product with each query, one tensor for each call."""

    calls: tuple[Float[Tensor, "q n t"], ...]
    reason: str
    """Why its places are not those of the text; empty: they are."""

    @property
    def token_wise(self) -> bool:
        """Are all places those of the text?"""
        return not self.reason

    def of_width(self, width: int) -> Float[Tensor, "q n t"]:
        """The calls of so many places added up: one text of several (an encoder's, a decoder's), if widths differ.

        Raises UsageError where there are none.
        """
        calls = [call for call in self.calls if call.shape[2] == width]
        if not calls:
            raise UsageError(self.reason or f"no call has {width} places.")
        return torch.stack(calls).sum(dim=0)

    def over_text(self) -> Float[Tensor, "q n t"]:
        """The calls added up. Raises UsageError where their places are not those of the text."""
        if self.reason:
            raise UsageError(self.reason)
        return torch.stack(self.calls).sum(dim=0)


def position_dots(
    factors: LayerFactors, queries: Float[Tensor, "q k"], width: int, projection: Projection | None = None
) -> Positions:
    """Split <query, gradient> over places, for queries that `project` gave with the same projection.

    `width` is the padded length of the batch, which tells whether a call saw one vector for each token; where two texts
    run through a model (encoder, decoder), pad them to different widths, or one is taken for the other. The sum over
    places and calls is the dot product itself, whether token-wise or not.
    """
    near = projection or Projection(factors.layer, None, None, None, factors.layer.size)
    if queries.ndim != 2 or queries.shape[1] != near.size:
        raise UsageError(
            f"{factors.layer.name}: queries of {near.size} numbers are needed, not {tuple(queries.shape)}."
        )
    calls = tuple(_split(part, queries, near) for part in factors.parts)
    return Positions(calls, _reason(factors.layer, [call.shape[2] for call in calls], width))


def _reason(layer: Layer, places: list[int], width: int) -> str:
    if not layer.token_wise:
        return f"{layer.name} is a convolution: each of its places covers several tokens, so words have no scores."
    if not any(places):
        return f"{layer.name} pushed nothing here, so words have no scores."
    unlike = [count for count in places if count != width]
    if unlike:
        return f"{layer.name} sees {unlike[0]} place(s) where the texts have {width} tokens: words have no scores."
    return ""


def _split(part: Part, queries: Float[Tensor, "q k"], projection: Projection) -> Float[Tensor, "q n t"]:
    if isinstance(part, Plain):
        values = part.values
        if projection.vector is not None:
            return torch.einsum("ntp,qp->qnt", values, queries.to(values) @ projection.vector.to(values).T)
        return torch.einsum("ntp,qp->qnt", values, queries.to(values))
    if not isinstance(part, Outer | Rows):
        raise UsageError("a gradient divided entry by entry has no places: split before dividing.")
    matrices = projection.matrix(queries.to(part.right))  # [q, ko, ki]
    if isinstance(part, Rows) and projection.left is None:
        return torch.stack([_lookup(part, matrix, projection) for matrix in matrices])
    left, right = project_sides(part, projection)
    return torch.stack([((left @ matrix) * right).sum(dim=2) for matrix in matrices])


def _lookup(part: Rows, matrix: Float[Tensor, "v ki"], projection: Projection) -> Float[Tensor, "n t"]:
    """The same for lookups, whose left factors are one-hot: a row of the query for each token."""
    asked, width = matrix[part.ids], part.right.shape[2]
    if projection.right is None:
        return (asked[..., :width] * part.right).sum(dim=2)
    return (asked * (part.right @ projection.right[:width].to(part.right))).sum(dim=2)
