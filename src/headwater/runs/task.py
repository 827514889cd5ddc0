"""What a task is: how texts and labels become a model's input, its target and its loss per example.

This is the user's contract. `Classification` is the first; causal and sequence-to-sequence language models implement
the same methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import RunError
from headwater.runs.corpus import Example, Label


@dataclass(frozen=True, slots=True)
class Encoding:
    """One example as tokens, unpadded.

    `offsets` are character spans (start, end) in the text that `parts` names: 0 the text, 1 the second text, None a
    special token (its span is (0, 0)). Both are None unless they were asked for.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None
    offsets: list[tuple[int, int]] | None
    parts: list[int | None] | None
    truncated: bool


@runtime_checkable
class Task(Protocol):
    """The methods that gradients, training and faces need of a task."""

    @property
    def kind(self) -> str:
        """Its name in files: `classification`, `pairs`."""

    @property
    def max_length(self) -> int | None:
        """Tokens at which an example is cut, special tokens included; None: the model's own limit."""

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """The model's class number of each label. Raises DataError naming `where` and the first row that has none."""

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize examples, cut at `max_length`."""

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """One batch, padded on the right: input_ids, attention_mask, and token_type_ids if the tokenizer makes them."""

    def losses(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each example in float32, as it stood in training."""

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Logits in float32."""

    def check_model(self, config: PreTrainedConfig) -> None:
        """Raise ModelError for a model that this task cannot stand for."""

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> Task:
        """The same task with `max_length` filled in from the tokenizer and the model."""

    def to_json(self) -> dict[str, Any]:
        """What `task_from_json` takes."""


def task_from_json(saved: Mapping[str, Any]) -> Task:
    """The task that `Task.to_json` described. Raises RunError for a kind this version does not know."""
    from headwater.runs.classification import Classification

    if saved.get("kind") in Classification.KINDS:
        return Classification.from_json(saved)
    kinds = ", ".join(Classification.KINDS)
    raise RunError(f"this run's task is {saved.get('kind')!r}; this version of Headwater knows {kinds}.")


# Model types whose position table starts after the padding id: they take fewer tokens than it has rows.
_SHIFTED = frozenset(
    [
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "xmod",
    ]
)
_NO_LIMIT = 1 << 30  # tokenizers say 1e30 where nobody set a limit


def length_limit(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> int | None:
    """The most tokens that both the tokenizer and the model's positions allow; None where neither sets a limit."""
    limits = [limit for limit in (tokenizer.model_max_length, position_limit(config)) if limit is not None]
    least = min(limits)
    return int(least) if least < _NO_LIMIT else None


def position_limit(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model has positions for; None where its architecture sets no limit."""
    if config.model_type == "headwater-textcnn":
        return int(config.max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - (config.pad_token_id or 0) - 1 if config.model_type in _SHIFTED else positions
