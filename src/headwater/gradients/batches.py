"""Batches of examples of like length, so that little of the pass is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from headwater.runs import Encoding, Run

BATCH_TOKENS = 2048
"""Padded tokens of a batch, queries and training rows alike."""


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


def encoded_batches(
    run: Run, encodings: Sequence[Encoding], targets: Sequence[int], *, first_row: int = 0, tokens: int = BATCH_TOKENS
) -> Iterator[Batch]:
    """Collate encoded examples into batches of like length; rows are numbered from `first_row`."""
    for bucket in length_buckets([len(encoding.input_ids) for encoding in encodings], tokens):
        yield Batch(
            torch.tensor(bucket) + first_row,
            run.task.collate([encodings[at] for at in bucket], run.tokenizer),
            torch.tensor([targets[at] for at in bucket]),
        )
