"""The Hessian of a softmax layer's mean loss, and two ways to divide by it.

    H = 1/n sum_x  s_x (diag p_x - p_x p_x^T) (x) a_x a_x^T        [c j, c j]

a_x [j] is the layer's input (with a 1 for the bias), p_x [c] the softmax of its output, s_x the weight of the row's
loss. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.last_layer import with_bias
from headwater.methods.parts import RepresentationPart
from headwater.progress import stage

_CELLS = 1 << 22  # float64 numbers of an intermediate result: 32 MiB
_STEPS = 2000
_TOLERANCE = 1e-10  # residual over right side


@dataclass(frozen=True)
class Curvature:
    """The Hessian of one part's training rows, read from the store whenever it is needed."""

    part: RepresentationPart
    scales: Float64[Tensor, "rows"]

    def diagonal(self) -> Float64[Tensor, "c j"]:
        """Return H's diagonal."""
        total: Tensor = sum((s[:, None] * p * (1 - p)).T @ a**2 for a, p, s in self._rows(1))  # type: ignore[assignment]
        return total / self.part.rows

    def dense(self) -> Float64[Tensor, "m m"]:
        """Form H."""
        c, j = self._shape()
        stage("measuring the curvature of the last layer")
        out = torch.zeros(c, j, c, j, dtype=torch.float64)
        for a, p, s in self._rows(1):
            for k in range(c):
                for other in range(k + 1):
                    each = s * p[:, k] * ((1.0 if k == other else 0.0) - p[:, other])
                    out[k, :, other] += a.T @ (each[:, None] * a)
        for k in range(c):
            for other in range(k):
                out[other, :, k] = out[k, :, other]  # each is symmetric: a^T diag a
        return out.reshape(c * j, c * j) / self.part.rows

    def solve(self, right: Float64[Tensor, "m c j"], damping: float) -> Float64[Tensor, "m c j"]:
        """Return (H + damping)^-1 right by Cholesky. Raises UsageError where rounding makes it indefinite."""
        hessian = self.dense()
        hessian.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            raise UsageError(f"the damped Hessian is not positive definite in float64: raise damping ({damping:.3g}).")
        found = torch.cholesky_solve(right.flatten(1).T, factor)
        return found.T.reshape(right.shape).contiguous()

    def iterate(
        self, right: Float64[Tensor, "m c j"], damping: float, diagonal: Float64[Tensor, "c j"]
    ) -> Float64[Tensor, "m c j"]:
        """Return (H + damping)^-1 right by conjugate gradients, divided by the diagonal first; H is never formed.

        Raises UsageError where the residual is not small after many steps.
        """
        inverse = 1 / (diagonal + damping)
        goal = _TOLERANCE * _norms(right)
        found, rest = torch.zeros_like(right), right.clone()
        way = inverse * rest
        before = (rest * way).sum(dim=(1, 2))
        for _ in range(_STEPS):
            if bool((_norms(rest) <= goal).all()):
                return found
            turned = self.times(way) + damping * way
            along = _ratio(before, (way * turned).sum(dim=(1, 2)))
            found += along[:, None, None] * way
            rest -= along[:, None, None] * turned
            after = (rest * inverse * rest).sum(dim=(1, 2))
            way = inverse * rest + _ratio(after, before)[:, None, None] * way
            before = after
        raise UsageError(f"conjugate gradients did not converge in {_STEPS:,} steps: raise damping ({damping:.3g}).")

    def times(self, vectors: Float64[Tensor, "m c j"]) -> Float64[Tensor, "m c j"]:
        """Return H v of each vector: one pass over the rows."""
        out = torch.zeros_like(vectors)
        for a, p, s in self._rows(len(vectors) * vectors.shape[1]):
            moved = torch.einsum("nj,mcj->mnc", a, vectors)
            moved = s[:, None] * p * (moved - (p * moved).sum(dim=2, keepdim=True))
            out += torch.einsum("mnc,nj->mcj", moved, a)
        return out / self.part.rows

    def _shape(self) -> tuple[int, int]:
        logits = self.part.queries.logits
        assert logits is not None
        return logits.shape[1], self.part.queries.features.shape[1] + self.part.bias

    def _rows(self, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Go through the rows: a [n, j], p [n, c], s [n], so many that [n, width] is not large."""
        step = max(1, _CELLS // width)
        for block in self.part.blocks():
            assert block.logits is not None
            a, p = with_bias(self.part, block), torch.softmax(block.logits.double(), dim=1)
            s = self.scales[block.start : block.start + len(a)]
            for at in range(0, len(a), step):
                here = slice(at, at + step)
                yield a[here], p[here], s[here]


def _norms(vectors: Float64[Tensor, "m c j"]) -> Float64[Tensor, "m"]:
    norms: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return norms


def _ratio(above: Float64[Tensor, "m"], below: Float64[Tensor, "m"]) -> Float64[Tensor, "m"]:
    """Of vectors that are solved already (0 / 0): 0."""
    return torch.where(below > 0, above / below, 0.0)
