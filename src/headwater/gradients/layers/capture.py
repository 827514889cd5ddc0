"""Hooks on layers: from one forward and one summed backward pass, the factors of every example's gradient.

Parameters are frozen and the model is in evaluation mode, so the backward pass computes gradients of activations only.
A selected module keeps what its gradient needs of its input; when the gradient of its output arrives, both are one
`LayerFactors`. The first selected module that nothing differentiable feeds returns a leaf instead, so that the pass
ends there: for the last layer alone it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import ModelError, UsageError
from headwater.gradients.batches import Batch
from headwater.gradients.frozen import frozen
from headwater.gradients.layers.factors import Layer, LayerFactors, Outer, Part, Plain, Rows
from headwater.gradients.layers.kinds import EMBEDDING, Kind, kind_of
from headwater.gradients.layers.kinds.kind import full
from headwater.gradients.layers.layout import Layout, candidates, holds, probe_weights, row_norms
from headwater.gradients.tokens import Losses

Take = Callable[[LayerFactors], None]


@dataclass
class _Call:
    """One call of a selected module in a forward pass."""

    layer: Layer
    name: str
    module: nn.Module
    kind: Kind
    measured: Any
    kept: Tensor
    output: Tensor
    versions: tuple[int, int]
    """Of kept and output when they were seen: a tensor overwritten since then is no longer what was used."""
    scaled: list[tuple[Layout, Tensor]]
    """Row norms of the probe's backward pass under each possible layout."""
    arrived: bool = False


class Capture:
    """Asks a model for the layer gradients of batches; made by `capture_layers`, and good only inside it."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.model = model
        self.layers = tuple(layers)
        self._modules: dict[nn.Module, tuple[str, Layer, Kind]] = {}
        self._measured: dict[nn.Module, Any] = {}
        self._layouts: dict[nn.Module, Layout] = {}
        self._absent: set[nn.Module] = set()
        self._calls: list[_Call] = []
        self._roots: list[Tensor] = []
        self._phase = "idle"
        self._examples = 0
        self._rows = self._weights = torch.ones(0)
        self._take: Take = lambda factors: None
        for layer in self.layers:
            for name in layer.modules:
                module, kind = _find(model, name)
                if module in self._modules:
                    raise UsageError(f"{name} is in two of the layers given: name each layer once, with one `tied`.")
                self._modules[module] = (name, layer, kind)

    def factors(self, batch: Batch, losses: Losses, *, precision: str = "float32") -> dict[str, LayerFactors]:
        """Return the factors of every layer for the examples of a batch, on the model's device (see `stream`)."""
        parts: dict[str, list[Part]] = {layer.name: [] for layer in self.layers}
        self.stream(batch, losses, lambda taken: parts[taken.layer.name].extend(taken.parts), precision=precision)
        n, like = len(batch.rows), next(self.model.parameters())
        return {
            layer.name: LayerFactors(layer, n, tuple(parts[layer.name]) or (_nothing(layer, n, like),))
            for layer in self.layers
        }

    def stream(self, batch: Batch, losses: Losses, take: Take, *, precision: str = "float32") -> None:
        """Give `take` the factors of each call of a selected module as soon as the backward pass reaches it.

        What a layer pushes is the sum over all that `take` is given of it; the factors are freed when it returns. A
        call that the loss does not depend on gives none. Raises ModelError where a layer does not run, runs where
        nothing is differentiated, or examples of a batch cannot be told apart; where a gradient is not finite, naming
        the row; and UsageError for an unknown precision.
        """
        if precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision must be float32 or bfloat16; it is {precision!r}.")
        device = next(self.model.parameters()).device
        moved = batch.to(str(device))
        self._examples, self._take, self._rows = len(batch.rows), take, batch.rows
        reduced = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
        try:
            self._phase = "forward"
            with torch.enable_grad(), reduced:
                each = losses(self.model, moved.inputs, moved.targets)
            self._check_forward(each)
            with torch.enable_grad():
                self._probe(each)
                self._phase = "backward"
                torch.autograd.grad(moved.total(each), self._roots, allow_unused=True)
            self._check_backward()
        finally:
            self._phase = "idle"
            self._calls, self._roots = [], []
            self._take = lambda factors: None

    def hook(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """Run after a selected module's forward: keep its input, and wait for the gradient of its output."""
        if self._phase == "idle":
            return None
        name, layer, kind = self._modules[module]
        if self._phase != "forward":
            raise ModelError(f"{name} ran again in the backward pass: switch gradient checkpointing off.")
        if not torch.is_grad_enabled():
            raise ModelError(
                f"{name} runs where nothing is differentiated (torch.no_grad, or reentrant gradient checkpointing)."
            )
        taken = next((value for value in (*given, *named.values()) if isinstance(value, Tensor)), None)
        if taken is None or not isinstance(output, Tensor):
            raise ModelError(f"{name}: unknown arguments or output of {type(module).__name__}.")
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            if module not in self._measured:
                self._measured[module] = _named(name, kind.measure, module, taken, output)
            measured = self._measured[module]
            kept = kind.keep(module, taken, output, measured)
        if not output.requires_grad or not self._roots:
            kept, output = self._root(kind, kept, output)
        elif output._is_view():  # a hook on a view is lost where the model goes on in place; same memory, no view
            output = torch.ops.aten._unsafe_view(output, output.shape)
        call = _Call(layer, name, module, kind, measured, kept, output, (kept._version, output._version), [])
        output.register_hook(lambda gradient: self._arrive(call, gradient))
        self._calls.append(call)
        return output

    def _root(self, kind: Kind, kept: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Begin the differentiable part here. A lookup that all examples share becomes one for each of them."""
        leaf = output.detach().requires_grad_()
        self._roots.append(leaf)
        n, returned = self._examples, leaf
        if kind is EMBEDDING and n > 1:
            if kept.ndim == 1 and len(kept) != n:
                kept, returned = kept.expand(n, -1), leaf.expand(n, *leaf.shape)
            elif kept.ndim > 1 and len(kept) == 1:
                kept, returned = kept.expand(n, *kept.shape[1:]), leaf.expand(n, *leaf.shape[1:])
        return kept, returned.clone()  # not the leaf itself: the model may go on in place

    def _check_forward(self, each: Tensor) -> None:
        called = {call.layer.name for call in self._calls}
        silent = [layer.name for layer in self.layers if layer.name not in called]
        if silent:
            raise ModelError(
                f"{', '.join(silent[:5])}{' and others' if len(silent) > 5 else ''} did not run in this pass, or the "
                "model uses the weight without calling the module. Leave such layers out (!NAME)."
            )
        if each.shape != (self._examples,):
            raise ModelError(
                f"the losses have shape {tuple(each.shape)}; one loss for each of {self._examples} examples is needed."
            )
        if not each.requires_grad:
            raise ModelError(f"{type(self.model).__name__}: its loss does not depend on any of the layers selected.")

    def _probe(self, each: Tensor) -> None:
        """Find how each module's output lies, where that is not known yet (see `layout`).

        It costs a backward pass of its own, in the first batch of several examples; and in every batch as long as the
        gradient of some layer is 0, which tells nothing.
        """
        n = self._examples
        settled = self._absent | self._layouts.keys()
        unknown = [call for call in self._calls if call.module not in settled]
        if n == 1 or not unknown:
            return
        for call in unknown:
            if not candidates(call.output.movedim(call.kind.channels, -1).shape, _lead(call), n):
                raise _mixed(call, n)
        self._phase = "probe"
        self._weights = probe_weights(n).to(each.device)
        torch.autograd.grad((each * self._weights).sum(), self._roots, retain_graph=True, allow_unused=True)
        self._absent |= {call.module for call in unknown} - {call.module for call in unknown if call.scaled}

    def _arrive(self, call: _Call, gradient: Tensor) -> None:
        """Take the gradient of a call's output, [*lead, o] once its channels are last."""
        if self._phase not in ("probe", "backward"):
            return
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            gradient = gradient.detach().movedim(call.kind.channels, -1)
            lead, n = _lead(call), self._examples
            if self._phase == "probe":
                options = candidates(gradient.shape, lead, n)
                call.scaled = [(layout, row_norms(gradient, layout, lead, n)) for layout in options]
                return
            call.arrived = True
            layout = self._layout(call, gradient)
            if call.kept._version != call.versions[0]:
                raise ModelError(f"{call.name}: its input was overwritten (in place) after it had run.")
            self._check_finite(gradient, layout, lead)
            kept = layout(call.kept, lead, n)
            part = call.kind.part(call.module, kept, layout(gradient, lead, n), call.measured)
            if isinstance(part, Rows) and call.layer.bias:
                part = replace(part, bias=True)
            self._take(LayerFactors(call.layer, n, (part,)))
            call.kept = call.output = torch.empty(0)  # the rest of the pass may have their memory

    def _layout(self, call: _Call, gradient: Tensor) -> Layout:
        """The layout of a call's output; settled by the first batch of several examples that moves it."""
        lead, n = _lead(call), self._examples
        options = candidates(gradient.shape, lead, n)
        known = self._layouts.get(call.module)
        if known in options:
            return known
        if n == 1:
            return options[0]
        for layout, scaled in call.scaled:
            plain = row_norms(gradient, layout, lead, n)
            if known is None and holds(plain, scaled, self._weights):
                if bool(plain.any()):
                    self._layouts[call.module] = layout
                return layout
        raise _mixed(call, n)

    def _check_finite(self, gradient: Tensor, layout: Layout, lead: int) -> None:
        if bool(torch.isfinite(gradient).all()):
            return
        finite = torch.isfinite(layout(gradient, lead, self._examples).reshape(self._examples, -1)).all(dim=1)
        row = int(self._rows[~finite.cpu()].min()) + 1
        raise ModelError(
            f"{type(self.model).__name__}: the gradient of row {row:,} is not finite. Are the checkpoint's weights? A "
            "training that diverged leaves NaN behind: choose an earlier checkpoint."
        )

    def _check_backward(self) -> None:
        """A call whose gradient never came must be one that the loss does not depend on."""
        for call in self._calls:
            if not call.arrived and call.output._version != call.versions[1]:
                raise ModelError(f"{call.name}: the model overwrites its output in place; its gradient is lost.")
        if not any(call.arrived for call in self._calls):
            raise ModelError(f"{type(self.model).__name__}: its loss does not depend on any of the layers selected.")


@contextmanager
def capture_layers(model: nn.Module, layers: Sequence[Layer]) -> Iterator[Capture]:
    """Within this context the yielded `Capture` gives the gradients of `layers`, which `select_layers` found.

    Everything is put back on leaving, also after an exception: hooks, `requires_grad` of every parameter, the training
    mode of every module. Raises ModelError where a layer is not in this model, UsageError where one
    is given twice.
    """
    capture = Capture(model, layers)
    handles = [module.register_forward_hook(capture.hook, with_kwargs=True) for module in capture._modules]
    try:
        with frozen(model):
            yield capture
    finally:
        for handle in handles:
            handle.remove()


def _find(model: nn.Module, name: str) -> tuple[nn.Module, Kind]:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"{type(model).__name__} has no layer {name}.") from None
    kind = kind_of(module)
    if kind is None or kind.refusal(module):
        raise ModelError(f"{name} cannot be captured: {kind.refusal(module) if kind else type(module).__name__}.")
    return module, kind


def _named(name: str, measure: Callable[..., Any], *given: Any) -> Any:
    try:
        return measure(*given)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _nothing(layer: Layer, n: int, like: Tensor) -> Part:
    """The part of a layer that pushed nothing: no places."""
    like = full(like.detach())
    if layer.matrix is None:
        return Plain(like.new_zeros(n, 0, layer.size))
    return Outer(like.new_zeros(n, 0, layer.matrix[0]), like.new_zeros(n, 0, layer.matrix[1]), layer.bias)


def _lead(call: _Call) -> int:
    return call.output.ndim - 1


def _mixed(call: _Call, n: int) -> ModelError:
    return ModelError(
        f"{call.name}: its output {tuple(call.output.shape)} does not hold the {n} examples of a batch apart. Leave it "
        f"out (!{call.name}), or take batches of one example."
    )
