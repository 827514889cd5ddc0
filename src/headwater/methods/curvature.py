"""Second moments of layer gradients, and powers of them: what stands for the curvature of the loss.

    F_l = 1/n  sum_x w_x g_x g_x^T          one symmetric matrix [k_l, k_l] for each layer l, no blocks between layers
    (F_l + damping * mean eigenvalue of F_l)^p       by eigendecomposition in float64

Read once, block by block: layers of one width are one batched product in float32; sums are float64. Sources:
the empirical Fisher of LoGra (arXiv 2405.13954) and DataInf (arXiv 2310.00902); R of TrackStar (arXiv 2410.17413).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.parts import LayerPart, LayerSpan
from headwater.progress import stage

Rows = Int64[np.ndarray, "n"]
_TAKEN = 1 << 22  # numbers of sampled rows that are read at a time
_WIDEST = 8192  # numbers: a layer's matrix is then 512 MB in float64


@dataclass(frozen=True)
class Blocks:
    """A symmetric matrix for each layer: a linear map of gradients that leaves layers apart."""

    spans: tuple[LayerSpan, ...]
    matrices: tuple[Float64[Tensor, "k k"], ...]

    def __call__(self, vectors: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """Multiply each layer's numbers of each row by the layer's matrix, in the vectors' own precision."""
        out = torch.zeros_like(vectors)
        for span, matrix in zip(self.spans, self.matrices, strict=True):
            out[:, span.start : span.stop] = vectors[:, span.start : span.stop] @ matrix.to(vectors)
        return out

    def in_float32(self) -> Blocks:
        """Return the same in single precision, for many rows."""
        return Blocks(self.spans, tuple(matrix.float() for matrix in self.matrices))


@dataclass(frozen=True)
class Spectra:
    """The eigenvalues and eigenvectors of each layer's matrix, in float64."""

    spans: tuple[LayerSpan, ...]
    values: tuple[Float64[Tensor, "k"], ...]
    """Ascending; never negative."""
    vectors: tuple[Float64[Tensor, "k k"], ...]

    def power(self, exponent: float, damping: float) -> Blocks:
        """Return (F_l + damping * mean eigenvalue)^exponent of each layer (see `damped_power`)."""
        powers = [damped_power(values, exponent, damping) for values in self.values]
        made = [(vectors * power) @ vectors.T for vectors, power in zip(self.vectors, powers, strict=True)]
        return Blocks(self.spans, tuple(made))


def damped_power(values: Float64[Tensor, "k"], exponent: float, damping: float) -> Float64[Tensor, "k"]:
    """Return (values + damping * their mean)^exponent.

    Directions that are still nothing but rounding are left out (a pseudo-inverse, where the exponent is negative).
    """
    raised = values + damping * values.mean()
    kept = (raised > raised.max() * len(values) * 2.0**-46) & (raised > 0)
    return torch.where(kept, torch.where(kept, raised, 1.0) ** exponent, 0.0)


def eigen(blocks: Blocks) -> Spectra:
    """Decompose each layer's matrix. What rounding made negative is 0."""
    pairs = [torch.linalg.eigh(matrix) for matrix in blocks.matrices]
    return Spectra(blocks.spans, tuple(each[0].clamp(min=0) for each in pairs), tuple(each[1] for each in pairs))


def second_moments(
    part: LayerPart,
    *,
    most_rows: int | None = None,
    weigh: Callable[[Rows, Float32[Tensor, "n k"]], Float[Tensor, "n layers"]] | None = None,
) -> Blocks:
    """Return F_l of the stored rows (of `most_rows` of them, evenly spaced).

    `weigh` gives the weight of each row in each layer's matrix; None: 1. Raises UsageError for too wide a layer.
    """
    sums = _Sums(part.layers)
    stage(f"measuring the curvature at {part.checkpoint.name}, kept for the next question")
    for rows, block in read(part, most_rows):
        sums.add(block, None if weigh is None else weigh(rows, block))
    return sums.mean()


def row_moments(part: LayerPart, most_rows: int | None) -> Blocks:
    """Return `second_moments` of the rows; kept for the next question."""
    return part.once(("moments", most_rows), lambda: second_moments(part, most_rows=most_rows))


def row_spectra(part: LayerPart, most_rows: int | None) -> Spectra:
    """Return `row_moments`, decomposed; kept for the next question."""
    return part.once(("spectra", most_rows), lambda: eigen(row_moments(part, most_rows)))


def moments_of(vectors: Float[Tensor, "n k"], layers: tuple[LayerSpan, ...]) -> Blocks:
    """Return F_l of gradients in memory."""
    sums = _Sums(layers)
    sums.add(vectors, None)
    return sums.mean()


def layer_squares(vectors: Float32[Tensor, "n k"], layers: Sequence[LayerSpan]) -> Float64[Tensor, "n layers"]:
    """Return each layer's part of each row's squared norm."""
    parts = [torch.linalg.vector_norm(vectors[:, span.start : span.stop], dim=1) for span in layers]
    return torch.stack(parts, dim=1).double().square()


def read(part: LayerPart, most_rows: int | None) -> Iterator[tuple[Rows, Float32[Tensor, "n k"]]]:
    """Go through the rows, or through `most_rows` of them, evenly spaced: their numbers and gradients."""
    if most_rows is None or most_rows >= part.rows:
        for start, block in part.blocks():
            yield np.arange(start, start + len(block)), block
        return
    chosen = np.arange(most_rows, dtype=np.int64) * part.rows // most_rows
    step = max(_TAKEN // max(part.queries.shape[1], 1), 1)
    for start in range(0, most_rows, step):
        rows = chosen[start : start + step]
        yield rows, part.take(rows)


def check_options(damping: float, most_rows: int | None) -> None:
    """Raise UsageError for options that mean nothing."""
    if not 0 <= damping < float("inf"):
        raise UsageError(f"damping is a share of the mean eigenvalue, 0 or more; it is {damping}.")
    if most_rows is not None and most_rows < 1:
        raise UsageError(f"curvature_rows must be 1 or more, or None for all; it is {most_rows}.")


class _Sums:
    """Adds up g g^T layer by layer; layers of one width that lie side by side are multiplied in one call."""

    def __init__(self, layers: tuple[LayerSpan, ...]) -> None:
        for span in layers:
            if span.stop - span.start > _WIDEST:
                raise UsageError(
                    f"{span.name}: {span.stop - span.start:,} numbers are stored of this layer, too many for a matrix "
                    f"of second moments (at most {_WIDEST:,}). Index it with a smaller projection, or leave it out."
                )
        self._layers = layers
        self._count = 0
        self._groups: list[tuple[int, int, Tensor]] = []  # first layer, first number, sums [layers, k, k]
        for start, stop in _alike(layers):
            width = layers[start].stop - layers[start].start
            sums = torch.zeros(stop - start, width, width, dtype=torch.float64)
            self._groups.append((start, layers[start].start, sums))

    def add(self, block: Float[Tensor, "n k"], weights: Float[Tensor, "n layers"] | None) -> None:
        """Add the rows of a block."""
        self._count += len(block)
        for first, begin, sums in self._groups:
            layers, width, _ = sums.shape
            rows = block[:, begin : begin + layers * width].view(len(block), layers, width).transpose(0, 1)
            other = rows
            if weights is not None:
                other = rows * weights[:, first : first + layers].T[:, :, None].to(rows)
            sums += torch.bmm(other.transpose(1, 2), rows)

    def mean(self) -> Blocks:
        """Return the sums over the number of rows."""
        made = [each / max(self._count, 1) for _, _, sums in self._groups for each in sums]
        return Blocks(self._layers, tuple(made))


def _alike(layers: Sequence[LayerSpan]) -> Iterator[tuple[int, int]]:
    """Cut the layers into stretches start..stop-1 of one width, without gaps."""
    start = 0
    for at in range(1, len(layers) + 1):
        if at < len(layers):
            one, other = layers[at - 1], layers[at]
            if one.stop == other.start and one.stop - one.start == other.stop - other.start:
                continue
        yield start, at
        start = at
