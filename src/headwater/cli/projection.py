"""The options that say how gradients of layers are taken and projected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from headwater.cli.options import Flag, Given, flags_of
from headwater.gradients.layers import Projector
from headwater.methods import LayerOptions

_PANEL = "Layers (of methods over layer gradients)"
_NAMES = {"dim": "dim", "seed": "projection_seed", "kind": "projection", "exact_below": "exact_below"}
PATTERNS = (
    "word-embeddings, last, second-to-last, quarter:1 to quarter:4, adapters, all, or a glob on module names; several "
    "with commas, !PATTERN takes away."
)

TIED = Flag(
    "tied",
    Literal["separate", "joint", "input", "output"],
    "Weights that embedding and head share: two layers, one, or one side alone.",
    "separate",
    _PANEL,
)

LAYER_FLAGS = [
    Flag(
        "layers",
        str,
        f"Which: {PATTERNS} Those of the method if not given; see `headwater layers RUN`.",
        panel=_PANEL,
        metavar="PATTERNS",
    ),
    TIED,
    *(replace(flag, name=_NAMES[flag.name]) for flag in flags_of(Projector, panel=_PANEL)),
]
"""Which layers are indexed, and how."""


def projector_of(given: Given) -> Projector | None:
    """Make the projector that the options name; None where they name none. Raises UsageError."""
    named = {field: given[option] for field, option in _NAMES.items() if option in given}
    return Projector(**named) if named else None


def layer_pattern(options: Any) -> str | None:
    """Return the layers that a method's options name."""
    return options.layers if isinstance(options, LayerOptions) else None
