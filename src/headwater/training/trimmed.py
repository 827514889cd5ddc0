"""A model's word embeddings cut down to the tokens that will be read: equal results from smaller gradients.

A dense optimizer moves every row of the embedding matrix at every step, used or not, and that is most of the work of a
small model with a large vocabulary. Rows of tokens that no text holds have gradient zero and are never read, so leaving
them out changes nothing else: optimizers that work number by number treat the other rows as before, and the norm of
the gradient adds only zeros. Token ids stay as they are; the table translates them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from headwater.errors import ModelError

_LANES = 16  # float32 numbers of the widest vector unit: rows of so many leave every sum in its order


class TrimmedEmbedding(nn.Embedding):
    """Some rows of another table, read by the old ids. An id that was not kept raises IndexError."""

    def __init__(self, table: nn.Embedding, kept: Int[Tensor, " kept"]) -> None:
        super().__init__(len(kept), table.embedding_dim)
        rows = table.weight.detach()[kept].clone()
        self.weight = nn.Parameter(rows, requires_grad=table.weight.requires_grad)
        place = torch.full((table.num_embeddings,), -1, dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        self.register_buffer("place", place, persistent=False)
        self.padding_idx = None if table.padding_idx is None else int(place[table.padding_idx])

    def forward(self, input: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """Look up; `input` are ids of the whole vocabulary."""
        return functional.embedding(self.rows_of(input), self.weight, self.padding_idx)

    @property
    def kept(self) -> Int[Tensor, " kept"]:
        """The ids whose rows are here, in their order."""
        places: Tensor = self.get_buffer("place")
        return (places >= 0).nonzero()[:, 0]

    def rows_of(self, ids: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Where each token's row stands in this table; -1 where it was not kept."""
        places: Tensor = self.get_buffer("place")
        return places[ids]


def why_not_trimmed(model: PreTrainedModel) -> str:
    """Why the table must stay whole for results to stay equal; empty where it need not."""
    table: object = model.get_input_embeddings()
    if type(table) is not nn.Embedding:
        return f"its embedding is a {type(table).__name__}."
    if table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return "its embedding has options of its own."
    users = [module for module in model.modules() if getattr(module, "weight", None) is table.weight]
    if len(users) > 1:
        return "its embedding matrix is tied to another layer."
    if table.embedding_dim % _LANES:
        return f"its embeddings are {table.embedding_dim} wide, no multiple of {_LANES}."
    return ""


def trim(model: PreTrainedModel, ids: Iterable[int]) -> int:
    """Cut the word embeddings of `model` down, in place, to these ids (and that of padding); returns the rows left.

    Raises ModelError where `why_not_trimmed` says why.
    """
    why = why_not_trimmed(model)
    if why:
        raise ModelError(f"the vocabulary of this {model.config.model_type} model cannot be trimmed: {why}")
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    pads = {pad for pad in (table.padding_idx, model.config.pad_token_id) if pad is not None}
    kept = torch.tensor(sorted({*ids, *pads}), dtype=torch.int64)
    model.set_input_embeddings(TrimmedEmbedding(table, kept))
    return len(kept)
