"""Classification of texts and of pairs of texts, with any `AutoModelForSequenceClassification` model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError, UsageError
from headwater.runs.conversation import Conversation
from headwater.runs.corpus import Example, Label
from headwater.runs.task import Encoding, checked_length

_SHOWN = 12  # labels listed in a message


@dataclass(frozen=True)
class Classification:
    """One label a text, or a pair of texts.

        loss = w_y * cross entropy(logits, y), smoothed as torch.nn.CrossEntropyLoss(label_smoothing=, weight=) does

    The model's `label2id` says which label is which class.
    """

    pairs: bool = False
    """Rows are pairs of texts (`Columns(text_pair=...)`)."""
    max_length: int | None = None
    """Tokens at which an example is cut, as in training; None: the model's own limit."""
    label_smoothing: float = 0.0
    """As `TrainingArguments.label_smoothing_factor`."""
    class_weights: Mapping[str, float] | None = None
    """Weight of each label's loss, by the model's name of the label; all labels or none."""

    KINDS: ClassVar[tuple[str, str]] = ("classification", "pairs")

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"max_length must be at least 1, not {self.max_length}.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UsageError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}.")
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", {str(k): float(v) for k, v in self.class_weights.items()})
            if not all(0.0 <= weight < float("inf") for weight in self.class_weights.values()):
                raise UsageError(f"class_weights must be finite and not negative: {dict(self.class_weights)}.")

    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    needs_labels: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """`pairs` or `classification`."""
        return self.KINDS[self.pairs]

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """The class number of each label: by name, or, where that fits, by number. `rows[i]` counts from 0.

        A name wins over a number. Whole numbers 0..C-1 are class numbers, unless the model's names are numbers
        themselves; digits as text are taken for numbers only where the model's names are transformers' own
        (LABEL_0, ...). Raises DataError that names the first row and lists the labels of both sides.
        """
        classes = _class_names(config)
        table = _lookup(classes)
        found: list[int] = []
        for place, label in enumerate(labels):
            target = table.get(label) if label is not None else None
            if target is None:
                row = place if rows is None else rows[place]
                raise DataError.at(where, *_unknown(label, labels, classes), row=row + 1)
            found.append(target)
        return found

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize in one call, cut at `max_length` (else the tokenizer's limit); `truncated` says what was cut.

        Raises DataError for a row that becomes no token at all, or a pair task's row without a second text.
        """
        if not examples:
            return []
        if isinstance(examples[0].text, Conversation):
            raise DataError("a column of conversations cannot be classified: give texts, or train with CausalLM.")
        limit = self.max_length or tokenizer.model_max_length
        special = tokenizer.num_special_tokens_to_add(pair=self.pairs)
        if limit <= special:
            raise UsageError(f"max_length {limit} leaves no room for text beside {special} special tokens.")
        batch = tokenizer(
            [example.text for example in examples],
            self._second_texts(examples),
            truncation=True,
            max_length=int(min(limit, 1 << 30)),
            padding=False,
        )
        types = batch.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
        made = []
        for place, (example, tokens) in enumerate(zip(examples, batch.encodings or [], strict=True)):
            ids = batch["input_ids"][place]
            if not ids:
                raise DataError.at("the corpus", "the tokenizer makes no token of this text.", row=example.row + 1)
            made.append(
                Encoding(
                    input_ids=ids,
                    token_type_ids=None if types is None else types[place],
                    offsets=list(tokens.offsets) if offsets else None,
                    parts=list(tokens.sequence_ids) if offsets else None,
                    truncated=bool(tokens.overflowing),
                )
            )
        return made

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """One batch, padded on the right whatever the tokenizer's own side: left padding changes GPT-2's logits."""
        pad = tokenizer.pad_token_id
        if pad is None:
            raise ModelError(
                "the tokenizer has no padding token. Set tokenizer.pad_token = tokenizer.eos_token and "
                "model.config.pad_token_id = tokenizer.pad_token_id before training, and save both."
            )
        shape = (len(encodings), max(len(encoding.input_ids) for encoding in encodings))
        batch = {
            "input_ids": torch.full(shape, pad, dtype=torch.int64),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
        }
        if encodings[0].token_type_ids is not None:
            batch["token_type_ids"] = torch.full(shape, tokenizer.pad_token_type_id, dtype=torch.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding.input_ids)
            batch["input_ids"][row, :length] = torch.tensor(encoding.input_ids)
            batch["attention_mask"][row, :length] = 1
            if encoding.token_type_ids is not None:
                batch["token_type_ids"][row, :length] = torch.tensor(encoding.token_type_ids)
        return batch

    def losses(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Cross entropy of each example in float32, not averaged."""
        logits = self.predict(model, batch)
        weights = None
        if self.class_weights is not None:
            ordered = [self.class_weights[name] for name in _class_names(model.config)]
            weights = torch.tensor(ordered, dtype=torch.float32, device=logits.device)
        return cross_entropy(logits, targets, weight=weights, reduction="none", label_smoothing=self.label_smoothing)

    def batch_loss(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean of the examples' losses."""
        return self.losses(model, batch, targets).mean()

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Logits in float32."""
        logits: Tensor = model(**batch).logits
        return logits.float()

    def check_model(self, config: PreTrainedConfig) -> None:
        """Refuse by name what would be wrong silently: multi-label, regression, no padding id, incomplete weights."""
        problem = getattr(config, "problem_type", None)
        if problem == "multi_label_classification":
            raise ModelError("multi-label classification is not supported yet: one label a row is.")
        if problem == "regression" or config.num_labels == 1:
            raise ModelError("regression (a model with one output) is not supported yet: classification is.")
        if config.pad_token_id is None:
            raise ModelError(
                f"the {config.model_type} model has no padding id, so it cannot take batches. Set model.config."
                "pad_token_id = tokenizer.pad_token_id before training, or add it to the checkpoints' config.json."
            )
        classes = _class_names(config)
        if self.class_weights is not None and set(self.class_weights) != set(classes):
            raise ModelError(
                f"class_weights name {_listed(self.class_weights)}, but the model's labels are {_listed(classes)}."
            )

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> Classification:
        """The same task with `max_length` filled in. Raises ModelError if it is longer than the model allows."""
        return replace(self, max_length=checked_length(self.max_length, tokenizer, config))

    def shown(self, example: Example) -> Example:
        """The example as it is."""
        return example

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {
            "kind": self.kind,
            "max_length": self.max_length,
            "label_smoothing": self.label_smoothing,
            "class_weights": None if self.class_weights is None else dict(self.class_weights),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Classification:
        """The task that `to_json` described."""
        options = {name: saved[name] for name in ("max_length", "label_smoothing", "class_weights") if name in saved}
        return cls(pairs=saved["kind"] == "pairs", **options)

    def _second_texts(self, examples: Sequence[Example]) -> list[str] | None:
        if not self.pairs:
            return None
        seconds = []
        for example in examples:
            if example.text_pair is None:
                fix = "Name its column: Columns(text_pair=...)."
                raise DataError.at("the corpus", "there is no second text.", row=example.row + 1, fix=fix)
            seconds.append(example.text_pair)
        return seconds


def _class_names(config: PreTrainedConfig) -> list[str]:
    """The model's label names in the order of their class numbers."""
    numbers = list(range(config.num_labels or 0))
    by_id = {int(number): str(name) for name, number in (config.label2id or {}).items()}
    if sorted(by_id) != numbers:
        by_id = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    if sorted(by_id) != numbers:
        raise ModelError(f"the model's label2id does not name its {len(numbers)} classes: {config.label2id}.")
    return [by_id[number] for number in numbers]


def _lookup(classes: Sequence[str]) -> dict[Label, int]:
    """Every label that means a class, to its number."""
    table: dict[Label, int] = {name: number for number, name in enumerate(classes)}
    if any(_is_number(name) for name in classes):
        return table | {int(name): number for name, number in table.items() if _is_number(str(name))}
    table |= {number: number for number in range(len(classes))}
    if list(classes) == [f"LABEL_{number}" for number in range(len(classes))]:
        table |= {str(number): number for number in range(len(classes))}
    return table


def _is_number(name: str) -> bool:
    return name.isascii() and name.lstrip("-").isdigit() and str(int(name)) == name


def _listed(labels: Sequence[Any] | Mapping[Any, Any]) -> str:
    shown = [str(label) for label in labels]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _unknown(label: Label | None, labels: Sequence[Label | None], classes: Sequence[str]) -> tuple[str]:
    if label is None:
        return (f"there is no label. The model's labels are {_listed(classes)}.",)
    there = list(dict.fromkeys(name for name in labels if name not in (None, label)))
    others = f" Beside it stand {_listed(there)}." if there else ""
    return (
        f"label {label!r} is not among the model's labels ({_listed(classes)}).{others} "
        "Use one of the model's, or set label2id in its config.",
    )
