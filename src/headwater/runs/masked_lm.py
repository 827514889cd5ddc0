"""Masked language models: the loss of the tokens behind a fixed, seeded mask.

    loss = - sum over the masked tokens t of a row  log p(t | the row with [MASK] there)    ("mean": per token)

A training draws other masks at every step. Here a row's mask follows from its text and a seed, so that its loss is a
function of the row: the same today and tomorrow, as a query and as a training row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError, UsageError
from headwater.files import digest
from headwater.runs.classification import Classification
from headwater.runs.corpus import Example, Label
from headwater.runs.language import (
    batch_mean,
    check_options,
    is_encoder,
    no_classes,
    padded,
    reduced,
    refuse_head,
    summed,
)
from headwater.runs.task import NO_TARGET, Encoding, Reply, checked_length


@dataclass(frozen=True)
class MaskedLM:
    """Loss of masked tokens, with any `AutoModelForMaskedLM` model. Rows are texts; they have no labels."""

    max_length: int | None = None
    """Tokens at which a text is cut, as in training; None: the model's own limit."""
    probability: float = 0.15
    """Share of a row's tokens that are masked; one at least. All of them become [MASK], none another word."""
    seed: int = 0
    """Seed of the masks."""
    reduction: str = "sum"
    """`sum` over an example's masked tokens, as a Trainer weighs them, or their `mean`."""

    kind: ClassVar[str] = "masked-lm"
    auto: ClassVar[str] = "AutoModelForMaskedLM"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self.reduction, max_length=self.max_length)
        if not 0 < self.probability <= 1:
            raise UsageError(f"probability is a share of the tokens, above 0 and at most 1, not {self.probability}.")

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """Zeros: the targets are tokens, and stand in the encodings. Raises DataError where there are labels."""
        if any(label is not None for label in labels):
            raise DataError(f"{where}: a masked language model learns from texts alone. Say Columns(label=None).")
        return [0] * len(labels)

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize, cut at `max_length`, and mask. A masked place is shown as a special token: its word is not read."""
        if not isinstance(tokenizer.mask_token_id, int):
            raise ModelError("the tokenizer has no mask token, so this is no masked language model.")
        plain = Classification(max_length=self.max_length).encode(tokenizer, examples, offsets=offsets)
        return [self._masked(tokenizer, example, made) for example, made in zip(examples, plain, strict=True)]

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """One batch, padded on the right: as of texts to classify, and targets."""
        targets, _ = padded([encoding.targets or [] for encoding in encodings], NO_TARGET)
        return Classification().collate(encodings, tokenizer) | {"targets": targets}

    def target_logits(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch places vocabulary"], Int[Tensor, "batch places"]]:
        """The logits of all places, and the tokens that are masked there (NO_TARGET: none)."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        return model(**inputs).logits, batch["targets"]

    def token_sums(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Per example: the sum of its masked tokens' losses in float32, and how many tokens these are."""
        return summed(*self.target_logits(model, batch))

    def losses(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each example in float32: the sum, or the mean, over its masked tokens."""
        return reduced(*self.token_sums(model, batch), self.reduction)

    def batch_loss(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean over the batch's masked tokens, or ("mean") over its examples."""
        return batch_mean(*self.token_sums(model, batch), self.reduction)

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Raise UsageError: there are no classes."""
        raise no_classes()

    def reply(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, example: Example, most: int
    ) -> Reply | None:
        """None: what is explained are the text's own masked tokens."""
        return None

    def check_model(self, config: PreTrainedConfig) -> None:
        """Refuse models that read from left to right, and those saved with another head."""
        if not is_encoder(config) or config.is_encoder_decoder:
            raise ModelError(f"{config.model_type} is no masked language model.")
        refuse_head(config, "masked language model")

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> MaskedLM:
        """The same task with `max_length` filled in. Raises ModelError if it is longer than the model allows."""
        return replace(self, max_length=checked_length(self.max_length, tokenizer, config))

    def shown(self, example: Example) -> Example:
        """The text as it is."""
        return example

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> MaskedLM:
        """The task that `to_json` described."""
        return cls(**{name: value for name, value in saved.items() if name in {field.name for field in fields(cls)}})

    def _masked(self, tokenizer: PreTrainedTokenizerFast, example: Example, plain: Encoding) -> Encoding:
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        words = [place for place, token in enumerate(plain.input_ids) if token not in special]
        if not words:
            raise DataError.at("the corpus", "there is no token to mask.", row=example.row + 1)
        count = max(1, round(self.probability * len(words)))
        number = int(digest([str(self.seed), example.text])[:16], 16)
        chosen = {words[at] for at in np.random.default_rng(number).permutation(len(words))[:count]}
        ids, parts, offsets = list(plain.input_ids), plain.parts, plain.offsets
        targets = [token if place in chosen else NO_TARGET for place, token in enumerate(ids)]
        ids = [int(tokenizer.mask_token_id) if place in chosen else token for place, token in enumerate(ids)]
        if parts is not None and offsets is not None:
            parts = [None if place in chosen else part for place, part in enumerate(parts)]
            offsets = [(0, 0) if place in chosen else span for place, span in enumerate(offsets)]
        return replace(plain, input_ids=ids, targets=targets, parts=parts, offsets=offsets)
