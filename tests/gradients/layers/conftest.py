"""Tiny models of every architecture, and per-example dense gradients of all their parameters by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

import builders
from gradients.conftest import NAMES, TARGETS, TEXTS, batch_of
from gradients.conftest import losses as class_losses
from headwater.gradients import Batch
from headwater.models.textcnn import TextCNN, TextCNNConfig

_T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 3,
    "decoder_start_token_id": 0, "dropout_rate": 0.0,
}  # fmt: skip
_LLAMA = builders._SIZES["llama"] | {"max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2}


def _causal(kind: str, **changes: Any) -> Callable[[int], PreTrainedModel]:
    def make(size: int) -> PreTrainedModel:
        sizes = builders._SIZES[kind] | {"max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2}
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {}
        config = AutoConfig.for_model(kind, vocab_size=size, **(sizes | dropouts | changes))
        return AutoModelForCausalLM.from_config(config)

    return make


def _masked(size: int) -> PreTrainedModel:
    config = AutoConfig.for_model(
        "bert", vocab_size=size, max_position_embeddings=64, pad_token_id=0, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **builders._SIZES["bert"],
    )  # fmt: skip
    return AutoModelForMaskedLM.from_config(config)


def _bart(size: int) -> PreTrainedModel:
    config = BartConfig(
        vocab_size=size, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, dropout=0.0,
        scale_embedding=True, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, init_std=0.2,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def _gemma3(size: int) -> PreTrainedModel:
    config = Gemma3TextConfig(
        vocab_size=size, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, **_LLAMA,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def _xlnet(size: int) -> PreTrainedModel:
    config = XLNetConfig(
        vocab_size=size, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.0, summary_last_dropout=0.0,
        pad_token_id=0, initializer_range=0.2, **NAMES,
    )  # fmt: skip
    return XLNetForSequenceClassification(config)


def _textcnn(size: int) -> PreTrainedModel:
    return TextCNN(TextCNNConfig(vocab_size=size, hidden_size=12, channels=6, width=3, max_length=20, num_labels=2))


MAKERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "t5": lambda size: T5ForSequenceClassification(T5Config(vocab_size=size, **_T5, **NAMES)),
    "t5-lm": lambda size: T5ForConditionalGeneration(T5Config(vocab_size=size, **_T5)),
    "bart-lm": _bart,
    "gpt2-lm": _causal("gpt2"),
    "gpt2-lm-untied": _causal("gpt2", tie_word_embeddings=False),
    "llama-lm": _causal("llama", tie_word_embeddings=True),
    "llama-lm-bias": _causal("llama", attention_bias=True, mlp_bias=True),
    "gemma-lm": _causal("gemma"),
    "gemma3-lm": _gemma3,
    "bert-lm": _masked,
    "xlnet": _xlnet,
    "textcnn": _textcnn,
}


def make_model(kind: str, tokenizer: PreTrainedTokenizerFast, *, double: bool = True) -> PreTrainedModel:
    """A tiny model in evaluation mode whose norms and biases are not at their start values."""
    torch.manual_seed(0)
    model = MAKERS[kind](len(tokenizer)) if kind in MAKERS else builders.tiny_model(kind, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return (model.double() if double else model).eval()


def token_losses(model: Any, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Each example's summed cross-entropy: of the next token, of the same one (masked), or of the decoder's."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    shift = 0
    if model.config.is_encoder_decoder:
        start = torch.full_like(ids[:, :1], 3)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=torch.cat([start, ids[:, :-1]], 1)).logits
    else:
        logits = model(input_ids=ids, attention_mask=mask).logits
        shift = 1 if "CausalLM" in type(model).__name__ or "LMHead" in type(model).__name__ else 0
    labels = ids.masked_fill(mask == 0, -100)[:, shift:]
    each = nn.functional.cross_entropy(
        logits[:, : logits.shape[1] - shift].transpose(1, 2), labels, reduction="none", ignore_index=-100
    )
    return each.sum(dim=1)


def double_losses(model: Any, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Classification in the model's own precision."""
    return nn.functional.cross_entropy(model(**inputs).logits, targets, reduction="none")


def even_batch(tokenizer: PreTrainedTokenizerFast, rows: int) -> Batch:
    """Rows of 8 tokens each."""
    words = ("heron", "river", "baker", "mill", "child", "rain", "old", "warm")[:rows]
    texts = [f"the {word} loves warm bread ." for word in words]
    return batch_of(tokenizer, texts, [row % 2 for row in range(rows)])


def losses_of(kind: str, *, double: bool = True) -> Callable[..., Tensor]:
    if "-lm" in kind:
        return token_losses
    return double_losses if double else class_losses


def one_by_one(model: nn.Module, batch: Batch, losses: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Dense gradients of every parameter, each example alone and without padding [n, *shape], by torch.func."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for row in range(len(batch.rows)):
        length = int(batch.inputs["attention_mask"][row].sum())
        inputs = {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}

        def loss(values: dict[str, Tensor], inputs: Any = inputs, row: int = row) -> Tensor:
            bound = _Bound(model, values)
            return losses(bound, inputs, batch.targets[row : row + 1]).sum()

        for name, gradient in torch.func.grad(loss)(parameters).items():
            found[name].append(gradient)
    return {name: torch.stack(values) for name, values in found.items()}


class _Bound:
    """A model with other values for its parameters; tied ones stay tied."""

    def __init__(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        self.model, self.values, self.config = model, values, getattr(model, "config", None)
        self.__class__ = type(type(model).__name__, (_Bound,), {})

    def __call__(self, *given: Any, **named: Any) -> Any:
        return torch.func.functional_call(self.model, self.values, given, named)


__all__ = ["TARGETS", "TEXTS", "batch_of", "even_batch", "losses_of", "make_model", "one_by_one"]
