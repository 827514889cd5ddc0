"""Batches of examples of like length, so that little of the pass is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from headwater.models.buckets import PADDING_COUNTS, length_buckets

if TYPE_CHECKING:  # the store needs gradients, but none of the libraries that runs do
    from headwater.runs import Encoding, Run

BATCH_TOKENS = 2048
"""Padded tokens of a batch on a CPU, queries and training rows alike."""


def batch_tokens(device: str) -> int:
    """Return how many padded tokens a batch of training rows holds; a GPU wants more of them at once."""
    return BATCH_TOKENS if torch.device(device).type == "cpu" else 16 * BATCH_TOKENS


MOST_LOGITS = 1 << 28
"""Of a batch of a language model, tokens by vocabulary: 1 GiB in float32, and several of these at a time."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes: the model's inputs, the targets, and which rows these are."""

    rows: Int64[Tensor, "n"]
    inputs: dict[str, Tensor]
    targets: Int64[Tensor, "n"]
    weights: Float32[Tensor, "n"] | None = None
    """What each row's loss counts in training; None: all alike."""

    def to(self, device: str) -> Batch:
        """Move the model's inputs, targets and weights; `rows` stay on the CPU."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(self.rows, inputs, self.targets.to(device), weights)

    def total(self, losses: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """The rows' losses times their weights, summed: what is differentiated, so that a gradient is weighed too."""
        return losses.sum() if self.weights is None else (losses * self.weights).sum()


def encoded_batches(
    run: Run,
    encodings: Sequence[Encoding],
    targets: Sequence[int],
    *,
    first_row: int = 0,
    tokens: int = BATCH_TOKENS,
    weights: Sequence[float] | None = None,
) -> Iterator[Batch]:
    """Collate encoded examples into batches of like length; rows are numbered from `first_row`.

    `weights` are those of training rows, beside `encodings`; queries have none.

    Where the model's answers depend on padding there is none: a batch then holds rows of one length only.
    """
    config = run.checkpoints[-1].config
    equal = config.model_type in PADDING_COUNTS
    if encodings and encodings[0].targets is not None:  # a language model's
        tokens = min(tokens, max(MOST_LOGITS // int(getattr(config, "vocab_size", None) or 1), 1))
    for bucket in length_buckets([len(encoding.looked_up) for encoding in encodings], tokens, equal=equal):
        yield Batch(
            torch.tensor(bucket) + first_row,
            run.task.collate([encodings[at] for at in bucket], run.tokenizer),
            torch.tensor([targets[at] for at in bucket]),
            None if weights is None else torch.tensor([weights[at] for at in bucket], dtype=torch.float32),
        )
