"""Token gradients: dl/dE_w of every example and token, at the price of one backward pass a batch.

    g_t     = d l(x) / d E[id_t]                     at place t of example x             (a place gradient)
    dl/dE_w = sum over the places t of x that hold token w of g_t                        (a token gradient)

Source: TracIn-WE, Yeh et al. 2022 (arXiv 2202.11844), section 4. Exact: tokens that x does not hold have gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from headwater.errors import ModelError, UsageError
from headwater.gradients.batches import Batch
from headwater.gradients.lookups import Lookup, capture_lookups

Losses = Callable[[Any, dict[str, Tensor], Tensor], Tensor]
"""(model, inputs, targets [n]) -> each example's own loss [n]."""

NO_PLACE = -1
"""The place of a lookup whose ids the batch does not name (the decoder of an encoder-decoder classifier)."""


@dataclass(frozen=True)
class TokenGradients:
    """Gradients by (row, token), sorted by row then token; a pair occurs once. On the CPU."""

    rows: Int64[Tensor, "p"]
    tokens: Int64[Tensor, "p"]
    gradients: Float32[Tensor, "p d"]


@dataclass(frozen=True)
class PlaceGradients:
    """Gradients by (row, place in the text); padding is left out. On the model's device."""

    rows: Int64[Tensor, "m"]
    places: Int64[Tensor, "m"]
    """Position in `Encoding.looked_up` (a decoder's come after its encoder's), or NO_PLACE."""
    tokens: Int64[Tensor, "m"]
    gradients: Float32[Tensor, "m d"]


def token_gradients(
    model: nn.Module, batches: Iterable[Batch], losses: Losses, *, precision: str = "float32"
) -> Iterator[TokenGradients]:
    """Yield the token gradients of each batch (see `place_gradients`)."""
    for places in place_gradients(model, batches, losses, precision=precision):
        yield fold_places(places)


def place_gradients(
    model: nn.Module, batches: Iterable[Batch], losses: Losses, *, precision: str = "float32"
) -> Iterator[PlaceGradients]:
    """Yield the place gradients of each batch: one forward pass and one backward pass to the lookups' output.

    `precision` "bfloat16" runs the model under autocast (gradients then differ by about 1%). A place is left out
    when its mask is 0 or its id is the module's `padding_idx`, whose row dense autograd never moves either.
    Raises ModelError when no lookup fires, when the loss does not depend on one, when a gradient is not finite, or
    when the ids that are looked up cannot be matched with the batch.
    """
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision must be float32 or bfloat16; it is {precision!r}.")
    device = next(model.parameters()).device
    with capture_lookups(model) as lookups:
        for batch in batches:
            lookups.clear()
            moved = batch.to(str(device))
            reduced = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
            with torch.enable_grad(), reduced:
                total = moved.total(losses(model, moved.inputs, moved.targets))
            if not lookups:
                raise ModelError(
                    f"{type(model).__name__} looked no word embedding up in its input matrix: is it given "
                    "inputs_embeds, or do encoder and decoder look up matrices of their own (not tied)?"
                )
            rows = batch.rows.to(device)
            pushed = zip(lookups, _backward(model, total, lookups), strict=True)
            parts = [_places(lookup, gradient, rows, moved.inputs) for lookup, gradient in pushed]
            places = parts[0] if len(parts) == 1 else _join(parts)
            _check_finite(model, places)
            yield places


def _backward(model: nn.Module, total: Tensor, lookups: Sequence[Lookup]) -> list[Tensor]:
    """Differentiate the summed loss with respect to what each lookup returned; 0 where it does not depend on it."""
    leaves = [lookup.leaf for lookup in lookups]
    found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    if all(gradient is None for gradient in found):
        raise ModelError(f"{type(model).__name__}: its loss does not depend on the word embeddings it looks up.")
    pairs = zip(leaves, found, strict=True)
    return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in pairs]


def _check_finite(model: nn.Module, places: PlaceGradients) -> None:
    """Refuse NaN and infinity here: no comparison further down would say anything of them."""
    if bool(torch.isfinite(places.gradients).all()):
        return
    bad = ~torch.isfinite(places.gradients).all(dim=1)
    row = int(places.rows[bad].min()) + 1
    raise ModelError(
        f"{type(model).__name__}: the gradient of row {row:,} is not finite. Are the checkpoint's weights? A training "
        "that diverged leaves NaN behind: choose an earlier checkpoint."
    )


def fold_places(places: PlaceGradients) -> TokenGradients:
    """Sum the gradients of the places that hold the same token of the same row."""
    vocabulary = int(places.tokens.max()) + 1 if len(places.tokens) else 1
    keys, order = torch.sort(places.rows * vocabulary + places.tokens, stable=True)
    begins = torch.ones_like(keys, dtype=torch.bool)
    begins[1:] = keys[1:] != keys[:-1]
    keys, slots = keys[begins], begins.cumsum(0) - 1
    summed = places.gradients[order[begins]]
    repeats = ~begins  # most tokens stand once: only the others are added
    summed.index_add_(0, slots[repeats], places.gradients[order[repeats]])
    return TokenGradients((keys // vocabulary).cpu(), (keys % vocabulary).cpu(), summed.cpu())


def _places(lookup: Lookup, gradient: Tensor, rows: Tensor, inputs: dict[str, Tensor]) -> PlaceGradients:
    """Cut padding away from one lookup's gradient [n, t, d] and say which row, place and token each is of."""
    ids = lookup.ids
    kept, places, ids, gradient = _align(ids, gradient, inputs)
    if lookup.module.padding_idx is not None:
        kept = kept & (ids != lookup.module.padding_idx)
    in_batch, in_text = kept.nonzero(as_tuple=True)
    values = gradient[in_batch, in_text].float()
    if lookup.scale != 1.0:
        values = values * lookup.scale
    return PlaceGradients(rows[in_batch], places[in_batch, in_text], ids[in_batch, in_text], values)


def _align(
    ids: Tensor, gradient: Tensor, inputs: dict[str, Tensor]
) -> tuple[Bool[Tensor, "n t"], Int64[Tensor, "n t"], Tensor, Tensor]:
    """Match the ids that a lookup received with the batch's own: which are text, and at what place.

    They may be the batch's as they are, time-first (XLNet), padded further (TextCNN), the decoder's where the batch
    names these, or others (a decoder whose tokens the model makes itself).
    """
    asked, mask = _side(inputs, "")
    before = torch.zeros_like(mask[:, 0], dtype=torch.int64)
    if "decoder_input_ids" in inputs and _is_decoders(ids, inputs):
        before = mask.sum(dim=1)  # padding is on the right
        asked, mask = _side(inputs, "decoder_")
    count, width = asked.shape
    if ids.dim() == 2 and ids.shape[0] != count and ids.shape[1] == count:
        ids, gradient = ids.T, gradient.transpose(0, 1)
    if ids.dim() != 2 or ids.shape[0] != count:
        raise ModelError(f"a lookup of shape {tuple(ids.shape)} does not match a batch of {count} rows.")
    if not _same(ids, asked) and ids.shape[0] == ids.shape[1] and _same(ids.T, asked):
        ids, gradient = ids.T, gradient.transpose(0, 1)
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if _same(ids, asked):
        beyond = ids.shape[1] - width
        return nn.functional.pad(mask, (0, beyond)), place + before[:, None], ids, gradient
    everything = torch.ones_like(ids, dtype=torch.bool)  # padding_idx alone tells a decoder's padding
    return everything, torch.full_like(ids, NO_PLACE), ids, gradient


def _side(inputs: dict[str, Tensor], side: str) -> tuple[Tensor, Bool[Tensor, "n t"]]:
    """The ids that the batch names for the encoder (or a model of one side) or the decoder, and their mask."""
    asked = inputs[f"{side}input_ids"]
    return asked, inputs.get(f"{side}attention_mask", torch.ones_like(asked)).bool()


def _is_decoders(ids: Tensor, inputs: dict[str, Tensor]) -> bool:
    """Whether a lookup was the decoder's. Where both sides were given equal ids, memory tells which these are."""
    if ids.dim() != 2 or not _same(ids, inputs["decoder_input_ids"]):
        return False
    return not _same(ids, inputs["input_ids"]) or ids.data_ptr() == inputs["decoder_input_ids"].data_ptr()


def _same(ids: Tensor, asked: Tensor) -> bool:
    """Are these the batch's ids, perhaps padded further on the right?"""
    return ids.shape[1] >= asked.shape[1] and torch.equal(ids[:, : asked.shape[1]], asked)


def _join(parts: list[PlaceGradients]) -> PlaceGradients:
    """Put the lookups of one pass together: every use of the matrix counts (T5, BART: encoder and decoder)."""
    return PlaceGradients(
        torch.cat([part.rows for part in parts]),
        torch.cat([part.places for part in parts]),
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.gradients for part in parts]),
    )
