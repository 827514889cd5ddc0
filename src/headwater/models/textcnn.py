"""TextCNN, the convnet of the TracIn-WE paper (Yeh et al. 2022, arXiv 2202.11844), as a Hugging Face model.

    E[ids] -> Conv(width 5) ReLU -> Conv(width 5) ReLU -> Conv(width 1) ReLU -> max over places -> Linear

The max runs over padding too, so the model pads itself to `max_length`: neither the mates nor the padding of
a batch can change a score. Importing this module makes `AutoModelForSequenceClassification` know the model.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class TextCNNConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers makes it a dataclass
    """Shape of a TextCNN; the defaults are the paper's, which classifies 128 wordpieces.

    Raises ValueError when `max_length` is too short for the two convolutions of `width` (9 for width 5).
    """

    model_type = "headwater-textcnn"

    vocab_size: int = 25_000
    hidden_size: int = 128
    channels: int = 50
    width: int = 5
    max_length: int = 128
    pad_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        shortest = 2 * (self.width - 1) + 1
        if self.max_length < shortest:
            raise ValueError(
                f"max_length {self.max_length} is too short: two convolutions of width {self.width} need {shortest}."
            )


class TextCNN(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Convolutions over word embeddings for text classification.

    The row of `pad_token_id` is zero and stays zero: padding is the same "nothing" before and after training.
    """

    config_class = TextCNNConfig
    base_model_prefix = ""
    accepts_loss_kwargs = False  # `**_` swallows them; without this Trainer would not divide accumulated losses
    main_input_name = "input_ids"

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.convolution1 = nn.Conv1d(config.hidden_size, config.channels, config.width)
        self.convolution2 = nn.Conv1d(config.channels, config.channels, config.width)
        self.convolution3 = nn.Conv1d(config.channels, config.channels, 1)
        self.classifier = nn.Linear(config.channels, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the word-embedding table, whose gradients TracIn-WE compares."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word-embedding table."""
        self.embedding = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Int[Tensor, "batch places"],
        attention_mask: Int[Tensor, "batch places"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits [batch, num_labels] and, given int labels [batch], their mean cross-entropy.

        Raises ValueError when a text has more than `config.max_length` tokens.
        """
        ids = self._fill(input_ids, attention_mask)  # [batch, max_length]
        hidden = self.embedding(ids).transpose(1, 2)  # [batch, hidden_size, max_length]
        for convolution in (self.convolution1, self.convolution2, self.convolution3):
            hidden = functional.relu(convolution(hidden))  # [batch, channels, fewer places]
        logits = self.classifier(hidden.amax(dim=-1))  # [batch, num_labels]
        loss = None if labels is None else functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _fill(
        self, input_ids: Int[Tensor, "batch places"], attention_mask: Int[Tensor, "batch places"] | None
    ) -> Int[Tensor, "batch max_length"]:
        """Bring every row to `max_length` places, with the pad id wherever the mask is 0."""
        length, pad = self.config.max_length, self.config.pad_token_id
        if attention_mask is not None:
            input_ids = torch.where(attention_mask.bool(), input_ids, pad)
        places = input_ids.shape[1]
        if places > length:
            if bool((input_ids[:, length:] != pad).any()):
                raise ValueError(f"a text of {places} tokens is longer than this TextCNN reads ({length}).")
            return input_ids[:, :length]
        return functional.pad(input_ids, (0, length - places), value=pad)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Keras' defaults, which the paper's notebook uses: torch's N(0, 1) embeddings would drown the signal.
        if isinstance(module, nn.Embedding):
            initialization.uniform_(module.weight, -0.05, 0.05)
            if not getattr(module.weight, "_is_hf_initialized", False):
                module.weight[self.config.pad_token_id] = 0.0
        elif isinstance(module, nn.Conv1d | nn.Linear):
            initialization.xavier_uniform_(module.weight)
            if module.bias is not None:
                initialization.zeros_(module.bias)


def register() -> None:
    """Make the Auto classes of transformers know TextCNN; calling it again changes nothing."""
    AutoConfig.register(TextCNNConfig.model_type, TextCNNConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(TextCNNConfig, TextCNN, exist_ok=True)


register()
