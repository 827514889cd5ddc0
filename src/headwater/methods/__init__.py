"""Methods of attribution: one file a method, named as in its paper, with its equation on top."""

from headwater.methods.method import CheckpointOptions, LayerOptions, Method, Question, Scale, Scorer
from headwater.methods.parts import (
    NO_PLACE,
    NO_TOKEN,
    Contributions,
    LayerPart,
    LayerSpan,
    PlaceVectors,
    RepresentationBlock,
    RepresentationPart,
    TokenPart,
)
from headwater.methods.pruning import can_prune, is_cheaper, prune
from headwater.methods.registry import all_methods, get_method
from headwater.methods.tracin_we import Matched, TracInWE

__all__ = [
    "NO_PLACE",
    "NO_TOKEN",
    "CheckpointOptions",
    "Contributions",
    "LayerOptions",
    "LayerPart",
    "LayerSpan",
    "Matched",
    "Method",
    "PlaceVectors",
    "Question",
    "RepresentationBlock",
    "RepresentationPart",
    "Scale",
    "Scorer",
    "TokenPart",
    "TracInWE",
    "all_methods",
    "can_prune",
    "get_method",
    "is_cheaper",
    "prune",
]
