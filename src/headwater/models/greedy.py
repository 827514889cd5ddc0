"""A model's most likely answer, token by token. No sampling, no penalties, whatever its generation settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.no_grad()
def greedy(
    model: PreTrainedModel,
    ids: Sequence[int],
    *,
    tokenizer: PreTrainedTokenizerFast,
    most: int,
    start: Sequence[int] | None = None,
) -> list[int]:
    """Return at most `most` tokens that follow `ids`, each the argmax after those before; an end token is the last.

    `start` is what the decoder of an encoder-decoder model begins with; `ids` are then the encoder's. The model is
    put into evaluation mode for it. One text at a time: no padding, so no batch can change an answer.
    """
    device = next(model.parameters()).device
    stops = _stops(model, tokenizer)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        given: dict[str, Any] = {}
        fresh = list(ids)
        if start is not None:
            inputs = torch.tensor([fresh], device=device)
            given = {
                "encoder_outputs": model.get_encoder()(input_ids=inputs),
                "attention_mask": torch.ones_like(inputs),
            }
            fresh = list(start)
        name = "input_ids" if start is None else "decoder_input_ids"
        made: list[int] = []
        whole, cache = list(fresh), None
        while len(made) < most:
            asked = {name: torch.tensor([fresh], device=device), "use_cache": True, **given}
            out: Any = model(**asked, **({} if cache is None else {"past_key_values": cache}))
            token = int(out.logits[0, -1].argmax())
            made.append(token)
            whole.append(token)
            if token in stops:
                break
            cache = getattr(out, "past_key_values", None)
            fresh = whole if cache is None else [token]
        return made
    finally:
        model.train(was_training)


def decoded_spans(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> tuple[str, list[tuple[int, int] | None]]:
    """The text of some tokens, and the characters of it that each one wrote; None for special tokens."""
    special = set(tokenizer.all_special_ids)
    spans: list[tuple[int, int] | None] = []
    text = ""
    for count, token in enumerate(ids, start=1):
        if token in special:
            spans.append(None)
            continue
        longer = str(tokenizer.decode(list(ids[:count]), skip_special_tokens=True))
        spans.append((min(len(text), len(longer)), len(longer)))
        text = longer
    return text, spans


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    found: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = set(found) if isinstance(found, list | tuple) else {found}
    return {int(token) for token in stops | {tokenizer.eos_token_id} if token is not None}
