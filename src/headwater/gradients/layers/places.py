"""A projected gradient taken apart by the places of its text: what each place pushed, projected by itself.

    P(G) = sum_t (P_out^T left_t) (P_in^T right_t)^T

Projection is linear, and so is division by fixed numbers: the vectors of the places add up to the projected gradient.
Whether a place of the layer is a place of the text is the question of `positions`, and is answered in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from headwater.gradients.layers.factors import CHUNK_BYTES, LayerFactors, Outer, Part, Plain, Rows
from headwater.gradients.layers.moments import Denominators, divide
from headwater.gradients.layers.projection import Projection, project, project_sides


@dataclass(frozen=True)
class PlacePart:
    """A layer's projected gradients: `vectors` summed over places, and `rest`, add up to what `project` gives."""

    vectors: Float32[Tensor, "n t k"] | None
    """What each place of the text pushed; None where no place of the layer is one."""
    rest: Float32[Tensor, "n k"]
    """What was pushed where no single token is seen: a pooled text, a convolution's window, another text."""


def place_vectors(
    factors: LayerFactors, projection: Projection | None, width: int, *, by: Denominators | None = None
) -> PlacePart:
    """Take the projected gradients of a call, or of all calls of a layer, apart by place. On the CPU.

    `width` is the padded length of the batch: a call of so many places saw one vector for each token (unless the layer
    is a convolution); where two texts run through a model, pad them to different widths. `by` divides the gradients
    first, place by place: t o i k_out multiply-adds an example. Memory: the vectors themselves (n t k numbers; with no
    projection k is the layer's size), and what leads to them of some examples at a time. Gradients that are dense
    already (`divide`) are `rest`.
    """
    layer = factors.layer
    near = projection or Projection(layer, None, None, None, layer.size)
    textual = [layer.token_wise and _width(part) == width for part in factors.parts]
    vectors = None
    for part in (part for part, places in zip(factors.parts, textual, strict=True) if places):
        found = torch.cat(
            [_split(piece, near, by).float().cpu() for piece in _pieces(part, factors.examples, near, by)]
        )
        vectors = found if vectors is None else vectors + found
    others = tuple(part for part, places in zip(factors.parts, textual, strict=True) if not places)
    if not others:
        return PlacePart(vectors, torch.zeros(factors.examples, near.size))
    rest = LayerFactors(layer, factors.examples, others)
    pieces = (rest,) if by is None else by.pieces(rest)
    return PlacePart(vectors, torch.cat([project(piece, projection).float().cpu() for piece in pieces]))


def _width(part: Part) -> int | None:
    if isinstance(part, Plain):
        return part.values.shape[1]
    return part.right.shape[1] if isinstance(part, Outer | Rows) else None


def _pieces(part: Part, examples: int, projection: Projection, by: Denominators | None) -> Iterator[Part]:
    """Some examples at a time, so that no more than CHUNK_BYTES are formed on the way."""
    size = projection.size
    if isinstance(part, Outer) and by is not None:
        (outputs, inputs), sides = by.values.shape, projection.sides()
        size += sides[0] * (outputs + 2 * inputs)
    step = max(1, CHUNK_BYTES // (4 * max(1, _width(part) or 0) * size))
    for start in range(0, examples, step):
        yield part.rows(slice(start, start + step))


def _split(part: Part, projection: Projection, by: Denominators | None) -> Float[Tensor, "n t k"]:
    """Project what each place pushed."""
    if isinstance(part, Plain):
        values = part.values if by is None else part.values / by.values.to(part.values)
        return values if projection.vector is None else values @ projection.vector.to(values)
    assert isinstance(part, Outer | Rows)
    n, t = part.right.shape[:2]
    if isinstance(part, Outer) and by is not None:
        matrices = _divided(part, projection.to(part.right), by.values.to(part.right))
    else:
        if by is not None:
            (part,) = divide(LayerFactors(projection.layer, n, (part,)), by).parts
            assert isinstance(part, Rows)
        left, right = project_sides(part, projection)
        matrices = left[..., :, None] * right[..., None, :]
    flat = matrices.flatten(0, 1)
    flat = projection.layer.flatten(flat) if projection.exact else flat.flatten(1)
    return flat.reshape(n, t, -1)


def _divided(part: Outer, projection: Projection, by: Float[Tensor, "o j"]) -> Float[Tensor, "n t ko ki"]:
    """(P_out^T (left right^T / D) P_in) of each place: the outputs are summed first, by one product for all places."""
    if projection.left is None:
        pushed = part.left[..., :, None] / by
    else:
        pushed = (part.left[..., None, :] * projection.left.T) @ by.reciprocal()  # [n, t, ko, j]
    pushed = pushed * part.extended()[..., None, :]
    return pushed if projection.right is None else pushed @ projection.right
