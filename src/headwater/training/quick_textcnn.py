"""TextCNN in other arithmetic, for thousands of retrainings: the same function, rounded elsewhere, at half the cost.

    convolution over word vectors:  y_t = b + sum_k W_k E[w_(t+k)] = b + sum_k P[w_(t+k), k],   P[w] = all W_k E_w

P is computed once for each distinct token of a batch, not once a place: texts repeat their words. Padding is kept only
as far as one window that sees nothing else, since all such windows give the same value (the maximum over places, and
the sum of their gradients, are the same). The other convolutions are matrix products over places.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.training.trimmed import TrimmedEmbedding


class QuickTextCNN(TextCNN):  # type: ignore[no-untyped-call]
    """A TextCNN with the same weights by the same names; `QuickTextCNN.of` makes one."""

    @classmethod
    def of(cls, model: TextCNN) -> QuickTextCNN:
        """Take over the layers of `model`, which shares them from now on."""
        made = cls(cast(TextCNNConfig, model.config))
        for name, layer in model.named_children():
            setattr(made, name, layer)
        made.train(model.training)
        return made

    def forward(
        self,
        input_ids: Int[Tensor, "batch places"],
        attention_mask: Int[Tensor, "batch places"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits [batch, num_labels] and, given int labels [batch], their mean cross-entropy."""
        ids = self._shortened(self._fill(input_ids, attention_mask))
        table = self.embedding
        rows = table.rows_of(ids) if isinstance(table, TrimmedEmbedding) else ids
        first = self.convolution1
        lookup: Any = _LookupConvolution
        hidden = lookup.apply(table.weight, first.weight, first.bias, rows, table.padding_idx)
        hidden = _convolved(functional.relu(hidden), self.convolution2)
        hidden = _convolved(functional.relu(hidden), self.convolution3)
        logits = self.classifier(functional.relu(hidden).amax(dim=1))  # [batch, num_labels]
        loss = None if labels is None else functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _shortened(self, ids: Int[Tensor, "batch max_length"]) -> Int[Tensor, "batch fewer"]:
        """Cut padding that all rows share, but for one window of it."""
        used = (ids != self.config.pad_token_id).any(dim=0).nonzero()
        longest = int(used[-1]) + 1 if len(used) else 0
        return ids[:, : longest + 2 * (self.config.width - 1) + 1]


class _LookupConvolution(torch.autograd.Function):
    """Word vectors and the first convolution in one."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "vocabulary d"],
        weight: Float[Tensor, "c d width"],
        bias: Float[Tensor, " c"],
        ids: Int[Tensor, "batch places"],
        pad: int | None,
    ) -> Float[Tensor, "batch fewer c"]:
        channels, d, width = weight.shape
        tokens, inverse = torch.unique(ids, return_inverse=True)
        vectors = table[tokens]  # [t, d]
        flat = weight.permute(1, 2, 0).reshape(d, width * channels)
        parts = (vectors @ flat)[inverse.reshape(-1)].view(*ids.shape, width, channels)
        count = ids.shape[1] - width + 1
        made = parts[:, :count, 0] + bias
        for k in range(1, width):
            made += parts[:, k : k + count, k]
        ctx.save_for_backward(vectors, flat, tokens, inverse)
        ctx.shapes, ctx.pad = (table.shape, weight.shape), pad
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        vectors, flat, tokens, inverse = ctx.saved_tensors
        whole, (channels, d, width) = ctx.shapes
        count = gradient.shape[1]
        places = gradient.new_zeros(*inverse.shape, width, channels)
        for k in range(width):
            places[:, k : k + count, k] = gradient
        by_token = gradient.new_zeros(len(tokens), width * channels)
        by_token.index_add_(0, inverse.reshape(-1), places.view(-1, width * channels))  # [t, width * c]
        rows = by_token @ flat.T
        if ctx.pad is not None:
            rows[tokens == ctx.pad] = 0.0
        table = gradient.new_zeros(whole)
        table[tokens] = rows
        weight = (vectors.T @ by_token).view(d, width, channels).permute(2, 0, 1)
        return table, weight, gradient.sum(dim=(0, 1)), None, None


def _convolved(hidden: Float[Tensor, "batch places c"], convolution: nn.Conv1d) -> Float[Tensor, "batch fewer out"]:
    """A convolution over places, as one matrix product."""
    width = convolution.kernel_size[0]
    count = hidden.shape[1] - width + 1
    windows = torch.cat([hidden[:, k : k + count] for k in range(width)], dim=-1) if width > 1 else hidden
    flat = convolution.weight.permute(0, 2, 1).reshape(convolution.out_channels, -1)
    return functional.linear(windows, flat, convolution.bias)
