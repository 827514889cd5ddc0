"""What the last linear layer saw and said of every row, at the price of a forward pass.

    features   a, the layer's input at the place that is used; of a language model its mean over the predicted places
    logits     f, the layer's output there                                  (classes only)
    errors     dl/df, so that the layer's own gradient is dl/df a^T          (classes only)

The layer returns a leaf, so that only what follows it is differentiated. A head that is applied to every place (GPT-2's
and Llama's `score`, XLNet's time-first) says by the gradient of the *logits* which place serves which row: that one is
not 0 where a loss is. With weights 1, 2, 3, ... on the rows, a place of row i has i times the gradient it has without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from headwater.errors import ModelError, UsageError
from headwater.gradients.batches import Batch
from headwater.gradients.frozen import frozen
from headwater.gradients.layers.factors import Layer
from headwater.gradients.layers.kinds import CONV1D, LINEAR, kind_of
from headwater.gradients.layers.kinds.kind import full
from headwater.gradients.layers.patterns import select_layers
from headwater.gradients.tokens import Losses

_CLOSE = 0.1  # a place's owner is a whole number; float32 rounds 10,000 to within 0.001
_SAME = 1e-3  # logits that went through another number format are still the same

Representations = dict[str, Float32[Tensor, "n *shape"]]
"""features [n, d] and losses [n]; of a model with classes also logits and errors [n, c]. Float32, on the CPU."""


def last_layer(model: nn.Module) -> Layer:
    """Return the layer that pattern `last` selects; its `bias` says whether it has one. Raises UsageError: none."""
    return select_layers(model, "last").layers[0]


def representations(
    model: nn.Module,
    batches: Iterable[Batch],
    losses: Losses,
    *,
    head: Layer | None = None,
    precision: str = "float32",
) -> Iterator[tuple[Int64[Tensor, "n"], Representations]]:
    """Yield the rows of each batch and their representations (see the module's top).

    Classes are what a model has whose logits are [n, c]. Of others (language models, [n, t, v]) the features are the
    mean over the places whose error is not 0 in float32, at which the loss may differ; a row all of whose errors are 0
    takes the places that its loss would move if the layer returned zeros, and has features 0 where there are none.

    `head` is another linear layer than the last. Raises ModelError where it is no linear layer, does not run exactly
    once, does not make the logits, where the place that serves a row cannot be told or is not one (classes), or where
    a number is not finite (naming the row); UsageError for an unknown precision. Hooks, `requires_grad` and modes are
    put back on leaving, also after an exception.
    """
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision must be float32 or bfloat16; it is {precision!r}.")
    cut = _Cut(model, head or last_layer(model), precision)
    try:
        with frozen(model):
            for batch in batches:
                yield batch.rows, _represent(cut, batch, losses)
    finally:
        cut.remove()


@dataclass(frozen=True)
class _Pass:
    """One forward pass: losses [n], the head's input [*lead, d], its output as a leaf [*lead, c], and the logits."""

    losses: Tensor
    inputs: Tensor
    leaf: Tensor
    logits: Tensor
    direct: bool
    """The logits are what the head returned, untouched."""


class _Cut:
    """Hooks on the head and on the whole model: the head's input, a leaf in place of its output, and the logits."""

    def __init__(self, model: nn.Module, head: Layer, precision: str) -> None:
        self.model, self.name, self.precision = model, head.name, precision
        self.flat = False
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self._logits: list[Any] = []
        modules = []
        for name in head.modules:
            module = dict(model.named_modules()).get(name)
            if module is None:
                raise ModelError(f"{type(model).__name__} has no layer {name}.")
            if kind_of(module) not in (LINEAR, CONV1D):
                raise ModelError(f"{name} is a {type(module).__name__}: representations are of a linear layer.")
            modules.append(module)
        self._handles = [module.register_forward_hook(self._at_head, with_kwargs=True) for module in modules]
        self._handles.append(model.register_forward_hook(self._at_end))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def run(self, batch: Batch, losses: Losses, *, flat: bool = False) -> _Pass:
        """Run the model.

        With `flat` the head returns zeros: what the loss then is does not matter, only which places it depends on.
        """
        self.flat = flat
        device = next(self.model.parameters()).device
        reduced = torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        moved = batch.to(str(device))
        try:
            with torch.enable_grad(), reduced:
                each = losses(self.model, moved.inputs, moved.targets)
            if len(self._seen) != 1 or len(self._logits) != 1:
                raise ModelError(
                    f"{self.name} ran {len(self._seen)} times in a pass, its model {len(self._logits)} times: a "
                    "representation is what it saw in one."
                )
            inputs, leaf, returned = self._seen[0]
            logits = self._checked(each, self._logits[0], len(batch.rows))
            return _Pass(each, inputs, leaf, logits, logits is returned and not returned._version)
        finally:
            self._seen, self._logits = [], []

    def _at_head(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Tensor:
        taken = next((value for value in (*given, *named.values()) if isinstance(value, Tensor)), None)
        if taken is None or not isinstance(output, Tensor) or taken.shape[:-1] != output.shape[:-1]:
            raise ModelError(f"{self.name}: unknown arguments or output of {type(module).__name__}.")
        said = full(output.detach())  # under autocast the little that follows the head stays in float32
        leaf = (torch.zeros_like(said) if self.flat else said).requires_grad_()
        returned = leaf.clone()  # not the leaf itself: the model may go on in place
        self._seen.append((taken.detach(), leaf, returned))
        return returned

    def _at_end(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        self._logits.append(getattr(output, "logits", None))

    def _checked(self, each: Tensor, logits: Any, n: int) -> Tensor:
        if each.shape != (n,):
            raise ModelError(f"the losses have shape {tuple(each.shape)}; one loss for each of {n} examples is needed.")
        if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != n:
            raise ModelError(f"{type(self.model).__name__} returns no logits of {n} examples.")
        if not logits.requires_grad or not each.requires_grad:
            raise ModelError(f"{type(self.model).__name__}: its logits or its loss do not depend on {self.name}.")
        return logits


def _total(batch: Batch, losses: Tensor) -> Tensor:
    return batch.to(str(losses.device)).total(losses)


def _represent(cut: _Cut, batch: Batch, losses: Losses) -> Representations:
    seen = cut.run(batch, losses)
    n, inputs = len(batch.rows), _flat(seen.inputs)
    _check_finite(cut, batch, {"losses": seen.losses})
    owners = _owners(cut, seen, n)
    errors = _flat(torch.autograd.grad(_total(batch, seen.losses), seen.leaf)[0])
    if seen.logits.ndim == 2:
        at = _one_place(cut, owners, n)
        found = {"features": inputs[at], "logits": _flat(seen.leaf.detach())[at], "errors": errors[at]}
        _check_head(cut, found["logits"], full(seen.logits.detach()))
    else:
        predicted = _moved(errors, owners)
        absent = torch.bincount(owners[predicted], minlength=n) == 0
        if bool(absent.any()):
            again = cut.run(batch, losses, flat=True)
            slopes = torch.autograd.grad(_total(batch, again.losses), again.leaf)[0]
            predicted |= _moved(_flat(slopes), owners) & absent[owners]
        found = {"features": _means(inputs[predicted], owners[predicted], n)}
    found["losses"] = seen.losses.detach()
    _check_finite(cut, batch, found)
    return {name: tensor.float().cpu() for name, tensor in found.items()}


def _owners(cut: _Cut, seen: _Pass, n: int) -> Int64[Tensor, "places"]:
    """Which example of the batch each place of the head's output serves; -1: none.

    Were examples mixed, the first one's places would have more than 1 times, the last one's less than n times what
    they have without weights.
    """
    leaf = seen.leaf
    if seen.direct:
        return torch.arange(n, device=leaf.device).repeat_interleave(leaf[0, ..., 0].numel())
    few = seen.logits[..., :8].float()
    each = (few * (1 + torch.arange(few.shape[-1], device=few.device) / 8)).reshape(n, -1).sum(dim=1)
    plain = _norms(torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0])
    weights = torch.arange(1, n + 1, device=each.device)
    ratio = _norms(torch.autograd.grad((each * weights).sum(), leaf, retain_graph=True)[0]) / plain
    used = plain > 0
    owners = torch.where(used, ratio.round() - 1, -1).long()
    whole = (ratio - ratio.round()).abs() <= _CLOSE
    if not bool(whole[used].all()) or not bool(torch.isin(weights - 1, owners).all()):
        raise ModelError(
            f"{cut.name}: its output {tuple(leaf.shape)} does not hold the {n} examples of a batch apart. Take batches "
            "of one example."
        )
    return owners


def _one_place(cut: _Cut, owners: Int64[Tensor, "places"], n: int) -> Int64[Tensor, "n"]:
    """The place that serves each example, where there is one."""
    used = (owners >= 0).nonzero().squeeze(1)
    if len(used) != n:
        raise ModelError(
            f"{cut.name}: the logits of {n} examples come from {len(used)} places of its output; a representation is "
            "what it saw at one."
        )
    return used[torch.argsort(owners[used])]


def _moved(errors: Float[Tensor, "places c"], owners: Int64[Tensor, "places"]) -> Bool[Tensor, "places"]:
    return (errors != 0).any(dim=1) & (owners >= 0)


def _means(features: Float[Tensor, "places d"], owners: Int64[Tensor, "places"], n: int) -> Float[Tensor, "n d"]:
    """The mean of the features of each example, 0 where there are none."""
    sums = features.new_zeros(n, features.shape[1]).index_add_(0, owners, features)
    return sums / torch.bincount(owners, minlength=n).clamp(min=1)[:, None]


def _check_head(cut: _Cut, said: Float[Tensor, "n c"], logits: Float[Tensor, "n c"]) -> None:
    """Refuse a layer whose output is not the logits: methods take softmax of it."""
    if said.shape != logits.shape or not torch.allclose(said, logits, rtol=_SAME, atol=_SAME):
        raise ModelError(f"{cut.name} does not make the logits of {type(cut.model).__name__}.")


def _check_finite(cut: _Cut, batch: Batch, found: dict[str, Tensor]) -> None:
    for name, values in found.items():
        finite = torch.isfinite(values.detach()).reshape(len(batch.rows), -1).all(dim=1).cpu()
        if not bool(finite.all()):
            raise ModelError(
                f"{type(cut.model).__name__}: the {name} of row {int(batch.rows[~finite].min()) + 1:,} are not finite. "
                "Are the checkpoint's weights? A training that diverged leaves NaN behind: choose an earlier "
                "checkpoint."
            )


def _flat(values: Tensor) -> Float[Tensor, "places width"]:
    return full(values.reshape(-1, values.shape[-1]))


def _norms(values: Tensor) -> Float[Tensor, "places"]:
    norms: Tensor = torch.linalg.vector_norm(_flat(values), dim=1, dtype=torch.float64)
    return norms
