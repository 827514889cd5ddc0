"""Two-sided random projection of layer gradients, from their factors (LoGra, arXiv 2405.13954; TrackStar, 2410.17413).

    P_out^T G P_in = sum_t (P_out^T left_t) (P_in^T right_t)^T      P_out [o, k], P_in [i, k]: E[P P^T] = 1

so that <P(G), P(G')> is <G, G'> on average over seeds. The bias is one more input, 1 at every place. A side that is no
longer than k is left as it is, and so is a small layer. A vector (norms) is multiplied by one matrix [p, k x k].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import UsageError
from headwater.files import digest
from headwater.gradients.layers.factors import Dense, Layer, LayerFactors, Outer, Part, Plain, Rows


@dataclass(frozen=True)
class Projector:
    """How gradients are projected: the same for the same seed and layer name, whatever other layers there are."""

    dim: int = field(default=16, metadata={"help": "Each side of a layer's gradient is projected to so many numbers."})
    seed: int = field(default=0, metadata={"help": "Seed of the random matrices."})
    kind: Literal["rademacher", "gaussian"] = field(
        default="rademacher", metadata={"help": "Entries of the matrices: random signs, or normal."}
    )
    exact_below: int | None = field(
        default=None, metadata={"help": "Layers of at most so many entries stay exact; None: dim x dim."}
    )

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UsageError(f"a projection has 1 dimension at least; dim is {self.dim}.")
        if self.kind not in ("rademacher", "gaussian"):
            raise UsageError(f"kind must be 'rademacher' or 'gaussian'; it is {self.kind!r}.")

    def to_json(self) -> dict[str, Any]:
        """What `Projector(**saved)` takes."""
        return asdict(self)

    def of(self, layers: Iterable[Layer]) -> dict[str, Projection]:
        """Return the projection of each layer."""
        return {layer.name: self._of(layer) for layer in layers}

    def _of(self, layer: Layer) -> Projection:
        limit = self.dim**2 if self.exact_below is None else self.exact_below
        if layer.size <= limit:
            return Projection(layer, None, None, None, layer.size)
        if layer.matrix is None:
            vector = self._draw(layer, "vector", layer.size, self.dim**2)
            return Projection(layer, None, None, vector, layer.size if vector is None else vector.shape[1])
        outputs, inputs = layer.matrix
        inputs += layer.bias
        left, right = self._draw(layer, "out", outputs, self.dim), self._draw(layer, "in", inputs, self.dim)
        if left is None and right is None:
            return Projection(layer, None, None, None, layer.size)
        return Projection(layer, left, right, None, min(outputs, self.dim) * min(inputs, self.dim))

    def _draw(self, layer: Layer, side: str, length: int, dim: int) -> Float[Tensor, "length dim"] | None:
        """A random matrix of variance 1 / dim, always drawn on the CPU: the same on every machine."""
        if length <= dim:
            return None
        seed = int(digest([str(self.seed), layer.name, side])[:15], 16)
        generator = torch.Generator().manual_seed(seed)
        if self.kind == "gaussian":
            drawn = torch.randn(length, dim, generator=generator)
        else:
            drawn = 2.0 * torch.randint(0, 2, (length, dim), generator=generator, dtype=torch.int8).float() - 1.0
        return drawn.div_(dim**0.5)


@dataclass(frozen=True)
class Projection:
    """One layer's projection. With neither side nor vector a gradient is kept exact, in the module's own order."""

    layer: Layer
    left: Float[Tensor, "o k"] | None
    right: Float[Tensor, "j k"] | None
    """Its last row belongs to the bias, if there is one."""
    vector: Float[Tensor, "p k"] | None
    size: int
    """Length of a projected gradient: [k_out, k_in] in one line."""

    @property
    def exact(self) -> bool:
        """Is nothing projected?"""
        return self.left is None and self.right is None and self.vector is None

    def to(self, like: Tensor) -> Projection:
        """The same on the device and in the precision of a tensor."""
        left, right, vector = (None if side is None else side.to(like) for side in (self.left, self.right, self.vector))
        return Projection(self.layer, left, right, vector, self.size)

    def sides(self) -> tuple[int, int]:
        """(k_out, k_in) of a projected matrix."""
        assert self.layer.matrix is not None
        outputs, inputs = self.layer.matrix
        left = outputs if self.left is None else self.left.shape[1]
        right = inputs + self.layer.bias if self.right is None else self.right.shape[1]
        return left, right

    def matrix(self, rows: Float[Tensor, "q size"]) -> Float[Tensor, "q o k"]:
        """Rows that `project` gave, as the matrices they are."""
        return self.layer.unflatten(rows) if self.exact else rows.reshape(len(rows), *self.sides())


def project(factors: LayerFactors, projection: Projection | None = None) -> Float[Tensor, "n k"]:
    """Return one row per example: the projected gradient, or the exact one (`LayerFactors.dense`).

    Multiply-adds of a linear layer: n t (o + i + k) k, against n t o i of its forward pass.
    """
    if projection is None or projection.exact:
        return factors.dense()
    total = project_part(factors.parts[0], projection)
    for part in factors.parts[1:]:
        total = total + project_part(part, projection)
    return total


def project_part(part: Part, projection: Projection) -> Float[Tensor, "n k"]:
    """Project what one call pushed."""
    if isinstance(part, Plain):
        dense = part.dense()
        return dense if projection.vector is None else dense @ projection.vector.to(dense)
    if isinstance(part, Dense):
        near = projection.to(part.matrix)
        matrix = part.matrix if near.right is None else part.matrix @ near.right
        matrix = matrix if near.left is None else near.left.T @ matrix
    else:
        left, right = project_sides(part, projection)
        matrix = torch.bmm(left.transpose(1, 2), right)
    return matrix.reshape(len(matrix), -1)


def project_sides(
    part: Outer | Rows, projection: Projection
) -> tuple[Float[Tensor, "n t ko"], Float[Tensor, "n t ki"]]:
    """Both factors of each place, projected (one-hot vectors become rows of the matrix)."""
    near = projection.to(part.right)
    width = part.right.shape[2]
    if isinstance(part, Outer):
        left = part.left if near.left is None else part.left @ near.left
        if near.right is None:
            return left, part.extended()
        right = part.right @ near.right[:width]
        return left, right + near.right[width] if part.ones else right
    left = near.left[part.ids] if near.left is not None else _one_hot(part)
    if near.right is not None:
        return left, part.right @ near.right[:width]
    return left, torch.nn.functional.pad(part.right, (0, int(part.bias)))  # lookups push nothing on a tied head's bias


def _one_hot(part: Rows) -> Float[Tensor, "n t v"]:
    return torch.nn.functional.one_hot(part.ids, part.count).to(part.right.dtype)
