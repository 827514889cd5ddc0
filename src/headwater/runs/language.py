"""What the language-model tasks share: losses summed over tokens, padding, spans of joined texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from headwater.errors import DataError, ModelError, UsageError
from headwater.runs.corpus import Label
from headwater.runs.task import NO_TARGET

_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
REDUCTIONS = ("sum", "mean")
Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a joined text that a reader sees: characters start..end-1 of it begin at `shown` of text `part`."""

    start: int
    end: int
    part: int
    shown: int = 0


def check_options(reduction: str, **lengths: int | None) -> None:
    """Raise UsageError for an unknown reduction or a length below 1."""
    if reduction not in REDUCTIONS:
        raise UsageError(f"reduction must be 'sum' or 'mean' over an example's tokens, not {reduction!r}.")
    for name, length in lengths.items():
        if length is not None and length < 1:
            raise UsageError(f"{name} must be at least 1, not {length}.")


def check_texts(labels: Sequence[Label | None], *, where: str, rows: Sequence[int] | None, what: str) -> None:
    """Raise DataError for the first label that is no text."""
    for place, label in enumerate(labels):
        if label is not None and not isinstance(label, str):
            row = place if rows is None else rows[place]
            raise DataError.at(where, f"the {what} must be text, not {label!r}.", row=row + 1)


def no_classes() -> UsageError:
    """What `predict` of a task whose target is a text raises."""
    return UsageError("a language model has no classes to predict. See headwater.training.evaluate.")


def shown_spans(offsets: Sequence[tuple[int, int]], pieces: Sequence[Piece]) -> tuple[Spans, list[int | None]]:
    """From token spans in a joined text to spans in the texts that are shown, and which text each is of.

    A token belongs to the last piece that it reaches into; one that reaches into none is special.
    """
    spans: Spans = []
    parts: list[int | None] = []
    at = 0
    for start, end in offsets:
        while at < len(pieces) and pieces[at].end <= start:
            at += 1
        held = at
        while held + 1 < len(pieces) and pieces[held + 1].start < end:
            held += 1
        if held == len(pieces) or end == 0 or pieces[held].start >= end:
            spans.append((0, 0))
            parts.append(None)
            continue
        piece = pieces[held]
        spans.append(
            (max(start, piece.start) - piece.start + piece.shown, min(end, piece.end) - piece.start + piece.shown)
        )
        parts.append(piece.part)
    return spans, parts


def padded(rows: Iterable[Sequence[int]], value: int) -> tuple[Int[Tensor, "n t"], Int[Tensor, "n t"]]:
    """Rows of numbers as one matrix, padded on the right with `value`; and the mask of what is no padding."""
    rows = list(rows)
    shape = (len(rows), max(len(row) for row in rows))
    made, mask = torch.full(shape, value, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for number, row in enumerate(rows):
        made[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return made, mask


def padding_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """What to fill up with. Masked places count nowhere, so any token will do where there is none for it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def end_token(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """The token that ends a text. Raises ModelError where the tokenizer has none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(
            f"the tokenizer has no end token (eos_token). Set one as in training, or say {name}(end=False)."
        )
    return tokenizer.eos_token_id


def summed(
    logits: Float[Tensor, "n t v"], targets: Int[Tensor, "n t"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Cross entropy at the places that have a target, summed by row in float32; and the number of such places."""
    wanted = targets != NO_TARGET
    found = cross_entropy(logits[wanted].float(), targets[wanted], reduction="none")
    each = torch.zeros(targets.shape, dtype=found.dtype, device=found.device).masked_scatter(wanted, found)
    return each.sum(dim=1), wanted.sum(dim=1)


def first_choices(logits: Float[Tensor, "n t v"], targets: Int[Tensor, "n t"]) -> Int[Tensor, " n"]:
    """Of each row, how many targets are the token of the highest logit at their place."""
    wanted = targets != NO_TARGET
    hit = logits[wanted].argmax(dim=-1) == targets[wanted]
    return torch.zeros_like(targets).masked_scatter(wanted, hit.to(targets.dtype)).sum(dim=1)


def next_token_logits(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Int[Tensor, "n t"]
) -> tuple[Float[Tensor, "n p v"], Int[Tensor, "n p"]]:
    """What `summed` takes, of a model whose logits at each place speak of the next one.

    Logits are by far the largest tensor of a pass: where the model can, they are made only for places in use.
    """
    ahead = targets[:, 1:]
    if takes(model, "logits_to_keep"):
        places = (ahead != NO_TARGET).any(dim=0).nonzero().squeeze(1)
        return model(**inputs, **without_cache(model), logits_to_keep=places).logits, ahead[:, places]
    return model(**inputs, **without_cache(model)).logits[:, :-1], ahead


def without_cache(model: PreTrainedModel) -> dict[str, Any]:
    """Keep no keys and values for tokens to come: they cost memory, and change the last bits of a gradient."""
    return {"use_cache": False} if takes(model, "use_cache") else {}


def takes(model: PreTrainedModel, option: str) -> bool:
    """Whether a model's forward pass (inside an adapter: the base's) has this option."""
    base: Any = getattr(model, "get_base_model", None)
    return option in inspect.signature((base() if base else model).forward).parameters


def reduced(sums: Float[Tensor, " n"], counts: Int[Tensor, " n"], reduction: str) -> Float[Tensor, " n"]:
    """The loss of each example: the sum over its tokens, or their mean."""
    return sums if reduction == "sum" else sums / counts.clamp(min=1)


def batch_mean(sums: Float[Tensor, " n"], counts: Int[Tensor, " n"], reduction: str) -> Float[Tensor, ""]:
    """What a step minimises: as transformers, the mean over the batch's tokens ("sum": an example counts by its
    length), or the mean of the examples' means."""
    if reduction == "mean":
        return reduced(sums, counts, reduction).mean()
    return sums.sum() / counts.sum().clamp(min=1)


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether this model reads all places at once: a masked-LM architecture that is not set to be a decoder."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def refuse_head(config: PreTrainedConfig, wanted: str) -> None:
    """Raise ModelError for a model that was saved with another task's head: tied weights would hide that."""
    for name in config.architectures or ():
        if any(head in name for head in _OTHER_HEADS):
            raise ModelError(f"a {name} is no {wanted}: it was saved with another head.")
