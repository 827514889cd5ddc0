"""Batches and dense gradients of a few texts, made without any code of Headwater's but `Batch` itself."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import builders
import headwater as hw
from headwater.gradients import Batch, TokenGradients

TEXTS = ["the heron loves warm bread .", "my neighbour hates unbelievable stories .", "bread", "the the the river"]
TARGETS = [0, 1, 1, 0]

NAMES = {"label2id": builders.LABEL2ID, "id2label": {v: k for k, v in builders.LABEL2ID.items()}}

losses = hw.Classification(max_length=32).losses


def batch_of(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str] = TEXTS,
    targets: Sequence[int] = TARGETS,
    *,
    width: int | None = None,
    first: int = 0,
) -> Batch:
    """One batch, padded on the right to the longest text or to `width`."""
    sides = {"padding": "max_length", "max_length": width} if width else {"padding": True}
    encoded = tokenizer(list(texts), padding_side="right", return_tensors="pt", **sides)
    return Batch(torch.arange(len(texts)) + first, dict(encoded), torch.tensor(list(targets)))


def dense(found: Iterable[TokenGradients], model: PreTrainedModel, rows: int) -> Tensor:
    """Token gradients written into a dense matrix [rows, vocabulary, width]; a pair that occurs twice is an error."""
    matrix = model.get_input_embeddings().weight
    out = torch.full((rows, *matrix.shape), torch.nan)
    for part in found:
        assert torch.isnan(out[part.rows, part.tokens]).all()
        out[part.rows, part.tokens] = part.gradients
    return out.nan_to_num()


class BagOfWords(nn.Module):
    """The mean of word embeddings under a linear head; the lookup is whatever module it is given."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = embedding
        self.head = nn.Linear(embedding.embedding_dim, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> "BagOfWords":
        looked_up = self.embedding(input_ids) * attention_mask[..., None]
        self.logits = self.head(torch.tanh(looked_up.sum(1) / attention_mask.sum(1, keepdim=True)))
        return self
