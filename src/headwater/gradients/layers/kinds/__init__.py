"""The kinds of layers whose per-example gradients are known, one file each."""

from __future__ import annotations

from torch import nn

from headwater.gradients.layers.kinds.convolution import CONVOLUTION
from headwater.gradients.layers.kinds.embedding import EMBEDDING
from headwater.gradients.layers.kinds.kind import Kind
from headwater.gradients.layers.kinds.linear import CONV1D, LINEAR
from headwater.gradients.layers.kinds.norm import NORM

KINDS = (LINEAR, CONV1D, CONVOLUTION, EMBEDDING, NORM)


def kind_of(module: nn.Module) -> Kind | None:
    """Return the kind of this module, None where it is of none."""
    return next((kind for kind in KINDS if kind.holds(module)), None)


__all__ = ["CONV1D", "CONVOLUTION", "EMBEDDING", "KINDS", "LINEAR", "NORM", "Kind", "kind_of"]
