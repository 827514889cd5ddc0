"""A model held still while gradients of its activations are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within this context no parameter wants a gradient and the model is in evaluation mode.

    `requires_grad` of every parameter and the mode of every module are put back on leaving, also after an exception.
    """
    trained = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, was in wanted:
            parameter.requires_grad_(was)
        for module, was in trained:
            module.training = was
