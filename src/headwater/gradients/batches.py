"""Batches of examples of like length, so that little of the pass is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes: the model's inputs, the targets, and which rows these are."""

    rows: Int64[Tensor, "n"]
    inputs: dict[str, Tensor]
    targets: Int64[Tensor, "n"]

    def to(self, device: str) -> Batch:
        """Move the model's inputs and targets; `rows` stay on the CPU."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(self.rows, inputs, self.targets.to(device))


def length_buckets(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Split positions 0..len(lengths)-1 into batches of at most `batch_tokens` padded tokens (one row at least).

    Rows are taken in order of length, equal lengths in their own order, so that the same lengths always give the
    same batches: bytes that must be equal depend on it.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    buckets: list[list[int]] = []
    longest = 0
    for position in order:
        if not buckets or longest * (len(buckets[-1]) + 1) > batch_tokens:
            buckets.append([])
            longest = max(lengths[position], 1)
        buckets[-1].append(position)
    return buckets
