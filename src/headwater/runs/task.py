"""What a task is: how texts and labels become a model's input, its target and its loss per example.

This is the user's contract: `Classification`, `CausalLM`, `Seq2Seq` and `MaskedLM` implement it, and `CustomLoss` wraps
one of them. `TextTask` is what a task offers besides where its target is a text and no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError
from headwater.runs.corpus import Corpus, Example, Label

NO_TARGET = -100
"""Marks places whose token the loss does not count, as everywhere in transformers."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One example as tokens, unpadded.

    `offsets` are character spans (start, end) in the text that `parts` names: 0 the text, 1 the second text (of a
    language model: the completion), None a special token (its span is (0, 0)). They go over `looked_up`, and both are
    None unless they were asked for.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None
    offsets: list[tuple[int, int]] | None
    parts: list[int | None] | None
    truncated: bool
    targets: list[int] | None = None
    """The tokens whose loss counts, NO_TARGET elsewhere: beside `input_ids`, or beside `decoder_input_ids`."""
    decoder_input_ids: list[int] | None = None
    """What the decoder of an encoder-decoder model reads."""

    @property
    def looked_up(self) -> list[int]:
        """Every token whose embedding the model looks up: the encoder's, then the decoder's."""
        return self.input_ids if self.decoder_input_ids is None else [*self.input_ids, *self.decoder_input_ids]


@runtime_checkable
class Task(Protocol):
    """The methods that gradients, training and faces need of a task."""

    @property
    def kind(self) -> str:
        """Its name in files: `classification`, `pairs`, `causal-lm`, `seq2seq`, `masked-lm`."""

    @property
    def auto(self) -> str:
        """The Auto class of transformers that its models are loaded with."""

    @property
    def needs_labels(self) -> bool:
        """Whether a training row without a label says nothing."""

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

    def batch_loss(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """What a training step on this batch minimises: the examples' losses, put together."""

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes in float32. Raises UsageError where the target is a text."""

    def check_model(self, config: PreTrainedConfig) -> None:
        """Raise ModelError for a model that this task cannot stand for."""

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> Task:
        """The same task with `max_length` filled in from the tokenizer and the model."""

    def shown(self, example: Example) -> Example:
        """The example as a reader sees it: `text` and `text_pair` are the texts that an encoding's `parts` number."""

    def to_json(self) -> dict[str, Any]:
        """What `task_from_json` takes."""


def shown_texts(task: Task, example: Example) -> tuple[str, ...]:
    """One or two texts, as a reader sees them: turns of a conversation with their roles, then the completion."""
    shown = task.shown(example)
    return (shown.text,) if shown.text_pair is None else (shown.text, shown.text_pair)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model says to a prompt: the example with that as its label, and the very tokens of it."""

    example: Example
    encoding: Encoding


@runtime_checkable
class TextTask(Task, Protocol):
    """A task whose target is a text: its loss is a sum over tokens."""

    def target_logits(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch places vocabulary"], Int[Tensor, "batch places"]]:
        """The logits of the places that speak of a target, and the targets there (NO_TARGET: none)."""

    def token_sums(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Per example: the sum of its tokens' losses in float32, and how many tokens these are."""

    def reply(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, example: Example, most: int
    ) -> Reply | None:
        """The model's greedy answer, at most `most` tokens; None where the example itself is what is explained."""


def text_task(task: Task) -> TextTask | None:
    """The task (of a custom loss: the one that it wraps), if its target is a text."""
    inner: Task = getattr(task, "base", task)
    return inner if isinstance(inner, TextTask) else None


def corpus_targets(task: Task, corpus: Corpus, config: PreTrainedConfig) -> list[int]:
    """What `Task.targets` makes of a corpus's labels. Raises DataError where labels are needed and there are none."""
    column = corpus.columns.label
    if column is None and task.needs_labels:
        raise DataError(f"{corpus.name}: this task needs labels. Name their column: Columns(label=...).")
    labels = [None] * len(corpus) if column is None else corpus.table.column(column).to_pylist()
    return task.targets(labels, config, where=corpus.name)


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


def checked_length(
    given: int | None, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig, *, name: str = "max_length"
) -> int | None:
    """`given`, or the limit of tokenizer and model. Raises ModelError where it is more than the model has room for."""
    if given is None:
        return length_limit(tokenizer, config)
    positions = position_limit(config)
    if positions is not None and given > positions:
        raise ModelError(f"{name} is {given}, but the model takes at most {positions} tokens.")
    return given


def position_limit(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model has positions for; None where its architecture sets no limit."""
    if config.model_type == "headwater-textcnn":
        return int(config.max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - (config.pad_token_id or 0) - 1 if config.model_type in _SHIFTED else positions
