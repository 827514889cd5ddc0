"""What a method is: a name, options, what it needs, and a function from a question to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.parts import Contributions, LayerPart, RepresentationPart, TokenPart
from headwater.runs import Corpus, Example, Run

Scale = Literal["none", "second-moments", "adam-update"]
"""What layer gradients are divided by before they are projected: nothing; sqrt(v) of Adam on both sides; or rows become
the step that Adam would take on them, while queries stay plain."""

Need = Literal["tokens", "layers", "representations", "texts"]
"""Which stored files a method reads: token gradients, layer gradients, representations, or none."""


class Question(Protocol):
    """A block of queries, with whatever a method may ask about it. Nothing is computed before it is asked for."""

    @property
    def run(self) -> Run:
        """Return the (first) run."""

    @property
    def corpus(self) -> Corpus:
        """Return the training rows."""

    @property
    def queries(self) -> Sequence[Example]:
        """Return the queries, with the label that is explained (a language model's: the completion)."""

    @property
    def targets(self) -> Sequence[int]:
        """Return the class number that is explained of each query; zeros where there are no classes."""

    def tokens(self, checkpoints: Sequence[str] | None, *, second_moments: bool = False) -> Sequence[TokenPart]:
        """Return token gradients; with `second_moments` the queries' are divided by sqrt(v) of Adam, entry by entry."""

    def layers(
        self,
        checkpoints: Sequence[str] | None,
        *,
        layers: str | None,
        scale: Scale = "none",
        second_moments: bool = False,
    ) -> Sequence[LayerPart]:
        """Return projected gradients of the layers that `layers` names, from the stored set of that `scale`.

        With `second_moments` the queries' alone are divided by sqrt(v) of Adam, which needs a set of scale "none".
        """

    def representations(self, checkpoints: Sequence[str] | None) -> Sequence[RepresentationPart]:
        """Return what the last layer saw and said."""

    def embeddings(self) -> Float32[Tensor, "v d"]:
        """Return the word-embedding matrix of the last checkpoint."""


class Scorer(Protocol):
    """A block of queries, ready to be compared with every training row."""

    def score(self, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Write the score of every query with every row into `out`, which holds zeros."""

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Return a bound on the error of the scores of `score`, against what `explain` gives."""

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows` in float64 and in a fixed order: those that `explain` takes apart."""

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Take a query's scores with `rows` apart, in float64 and in a fixed order."""


@dataclass(frozen=True)
class CheckpointOptions:
    """The option that every method over checkpoints has."""

    checkpoints: tuple[str, ...] | None = field(
        default=None, metadata={"help": "Only these checkpoints."}, kw_only=True
    )


@dataclass(frozen=True)
class LayerOptions(CheckpointOptions):
    """The options that every method over layer gradients has."""

    layers: str | None = field(
        default=None,
        metadata={
            "help": "Score over these layers alone, of those indexed: word-embeddings, last, second-to-last, quarter:1 "
            "to quarter:4, adapters, all, or a glob on module names; several with commas."
        },
        kw_only=True,
    )


@dataclass(frozen=True)
class Method:
    """A way to compare queries with training rows."""

    name: str
    summary: str
    need: Need
    cost: str
    """Of an answer, in words."""
    words: str
    """Whether and how its scores fall to words."""
    paper: str
    options: type[Any]
    prepare: Callable[[Question, Any], Scorer]
    layers: str = "all"
    """Of a method over layer gradients: the layers that are indexed for it, unless others are named."""
    scale: Scale = "none"
    """Of a method over layer gradients: what they must have been divided by."""
    classes: bool = False
    """Does it need classes (no language models)?"""

    @property
    def needs(self) -> str:
        """Say what must be indexed."""
        if self.need != "layers":
            return _NEEDS[self.need]
        divided = "" if self.scale == "none" else ", and optimizer.pt in each checkpoint, with Recorder's names"
        return _NEEDS["layers"].format(self.layers) + divided

    @property
    def fields(self) -> list[Field[Any]]:
        """Return the options' fields, those that many methods share last."""
        shared = LayerOptions.__dataclass_fields__.keys()
        found = fields(self.options)
        return [e for e in found if e.name not in shared] + [e for e in found if e.name in shared]

    def scale_of(self, options: Any) -> Scale:
        """Return what the stored gradients are divided by that these options ask for."""
        plain = self.scale == "second-moments" and not getattr(options, "second_moments", True)
        return "none" if plain else self.scale

    def make_options(self, **given: Any) -> Any:
        """Make the options of this method. Raises UsageError naming an unknown one and those there are."""
        known = [entry.name for entry in self.fields]
        for name in given:
            if name not in known:
                raise UsageError(f"{self.name} has no option {name!r}. It has: {', '.join(known) or 'none'}.")
        return self.options(**given)


_NEEDS = {
    "tokens": "token gradients (one forward and one activation-backward pass a checkpoint)",
    "layers": "gradients of the layers {!r} (one forward and one activation-backward pass a checkpoint)",
    "representations": "representations (one forward pass a checkpoint)",
    "texts": "nothing: it reads texts",
}
