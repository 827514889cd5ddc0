"""What a per-example gradient is kept as: factors whose sum over places it is, never the dense matrix unless asked.

    dl/dW = sum_t left_t right_t^T      [o, i]: a linear layer has left = dl/d(output), right = input

The matrix is kept with its outputs as rows. A bias is its last column: the input 1 of every place. An embedding matrix
has the token's one-hot vector as left and dl/d(output) as right, so that a head tied to it has the same [o, i].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK_BYTES = 1 << 26
"""Most bytes of dense gradients that are formed at a time."""


@dataclass(frozen=True)
class Layer:
    """A weight (with its bias) whose per-example gradients are captured, by names: it holds for every checkpoint."""

    name: str
    modules: tuple[str, ...]
    """Every module that uses the weight; what they push adds up."""
    matrix: tuple[int, int] | None
    """(o, i) of the weight seen as a matrix, without the bias; None for a vector (norms)."""
    shape: tuple[int, ...]
    """Of the weight as the module holds it."""
    bias: bool
    transposed: bool
    """The module holds [i, o] (Conv1D of GPT-2)."""
    parameters: tuple[str, ...]
    """Names of weight and bias in `named_parameters`."""
    size: int
    """Entries of one gradient, bias included."""
    token_wise: bool = True
    """Each place of its output comes from the same place of its input alone (false for a convolution)."""

    def flatten(self, matrix: Float[Tensor, "n o j"]) -> Float[Tensor, "n size"]:
        """From [o, i or i + 1] to the module's own order: the weight as it holds it, then the bias."""
        inputs = self._matrix()[1]
        weight = matrix[..., :inputs]
        weight = weight.transpose(-1, -2) if self.transposed else weight
        flat = weight.reshape(len(matrix), -1)
        return torch.cat([flat, matrix[..., inputs]], dim=1) if self.bias else flat

    def unflatten(self, flat: Float[Tensor, "n size"]) -> Float[Tensor, "n o j"]:
        """The inverse of `flatten`."""
        outputs, inputs = self._matrix()
        weight = flat[:, : outputs * inputs]
        if self.transposed:
            weight = weight.reshape(-1, inputs, outputs).transpose(-1, -2)
        else:
            weight = weight.reshape(-1, outputs, inputs)
        return torch.cat([weight, flat[:, outputs * inputs :, None]], dim=2) if self.bias else weight

    def _matrix(self) -> tuple[int, int]:
        assert self.matrix is not None, f"{self.name} is a vector"
        return self.matrix


@dataclass(frozen=True)
class Outer:
    """sum_t left_t right_t^T; with `ones` every right_t has a 1 after it, so that the bias is the last column."""

    left: Float[Tensor, "n t o"]
    right: Float[Tensor, "n t i"]
    ones: bool = False

    def rows(self, at: slice) -> Outer:
        """Some examples."""
        return Outer(self.left[at], self.right[at], self.ones)

    def extended(self) -> Float[Tensor, "n t j"]:
        """The right factors with their 1."""
        if not self.ones:
            return self.right
        return torch.cat([self.right, self.right.new_ones(*self.right.shape[:2], 1)], dim=2)

    def dense(self) -> Float[Tensor, "n o j"]:
        """The gradients as matrices."""
        return torch.bmm(self.left.transpose(1, 2), self.extended())


@dataclass(frozen=True)
class Rows:
    """sum_t onehot(ids_t) right_t^T: only the rows of the tokens looked up are not 0."""

    ids: Int64[Tensor, "n t"]
    right: Float[Tensor, "n t i"]
    count: int
    """Rows of the matrix."""
    bias: bool = False
    """The layer has a bias (a tied head's), on which lookups push nothing."""

    def rows(self, at: slice) -> Rows:
        """Some examples."""
        return Rows(self.ids[at], self.right[at], self.count, self.bias)

    def dense(self) -> Float[Tensor, "n o j"]:
        """The gradients as matrices [rows of the embedding, width]."""
        n, t, width = self.right.shape
        out = self.right.new_zeros(n, self.count, width + self.bias)
        example = torch.arange(n, device=self.ids.device)[:, None].expand(n, t)
        out[..., :width].index_put_((example, self.ids), self.right, accumulate=True)
        return out


@dataclass(frozen=True)
class Plain:
    """sum_t values_t: the gradient of a vector, weight then bias."""

    values: Float[Tensor, "n t p"]

    def rows(self, at: slice) -> Plain:
        """Some examples."""
        return Plain(self.values[at])

    def dense(self) -> Float[Tensor, "n p"]:
        """The gradients."""
        return self.values.sum(dim=1)


@dataclass(frozen=True)
class Dense:
    """A gradient that has no factors any more (divided entry by entry)."""

    matrix: Float[Tensor, "n o j"]

    def rows(self, at: slice) -> Dense:
        """Some examples."""
        return Dense(self.matrix[at])

    def dense(self) -> Float[Tensor, "n o j"]:
        """The gradients as matrices."""
        return self.matrix


Part = Outer | Rows | Plain | Dense


@dataclass(frozen=True)
class LayerFactors:
    """The gradients of one layer for every example of a batch: the sum of `parts`, one a call of one of its modules.

    There is one part at least; that of a layer which pushed nothing has no places.
    """

    layer: Layer
    examples: int
    parts: tuple[Part, ...]

    def rows(self, at: slice) -> LayerFactors:
        """Some examples."""
        return LayerFactors(self.layer, len(range(self.examples)[at]), tuple(part.rows(at) for part in self.parts))

    def chunks(self, most_bytes: int = CHUNK_BYTES) -> Iterator[LayerFactors]:
        """Cut the examples so that the dense gradients of a piece take at most `most_bytes` (one example at least)."""
        step = max(1, most_bytes // (4 * self.layer.size))
        for start in range(0, self.examples, step):
            yield self.rows(slice(start, start + step))

    def dense(self) -> Float[Tensor, "n size"]:
        """Every gradient, dense, in the module's own order: the weight as it holds it, then the bias."""
        total = self.parts[0].dense()
        for part in self.parts[1:]:
            total = total + part.dense()
        return total if self.layer.matrix is None else self.layer.flatten(total)
