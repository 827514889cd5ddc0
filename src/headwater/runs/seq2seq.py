"""Sequence-to-sequence models (T5, BART): the loss of a target text, given a source text.

    loss = - sum over the tokens t of the target  log p(t | source, target before t)      ("mean": per token)

The target stands in the corpus's label column. The embedding matrix is looked up twice, by the encoder for the source
and by the decoder for the target moved right by one: both count, and words of both texts get scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError
from headwater.models.greedy import decoded_spans, greedy
from headwater.runs.conversation import Conversation
from headwater.runs.corpus import Example, Label
from headwater.runs.language import (
    Piece,
    batch_mean,
    check_options,
    check_texts,
    no_classes,
    padded,
    padding_id,
    reduced,
    refuse_head,
    shown_spans,
    summed,
    without_cache,
)
from headwater.runs.task import NO_TARGET, Encoding, Reply, checked_length


@dataclass(frozen=True)
class Seq2Seq:
    """Next-token loss of target texts, with any `AutoModelForSeq2SeqLM` model."""

    max_length: int | None = None
    """Tokens at which a source is cut, as in training; None: the model's own limit."""
    max_target_length: int | None = None
    """Tokens at which a target is cut, as in training; None: as many as `max_length`."""
    reduction: str = "sum"
    """`sum` over an example's tokens, as a Trainer weighs them, or their `mean`: every example counts the same."""
    start_token: int | None = None
    """What the decoder begins with; None: what the model's configuration says."""

    kind: ClassVar[str] = "seq2seq"
    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self.reduction, max_length=self.max_length, max_target_length=self.max_target_length)

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """Zeros: the targets are tokens, and stand in the encodings. Raises DataError for a label that is no text."""
        check_texts(labels, where=where, rows=rows, what="target")
        return [0] * len(labels)

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize sources and targets, each cut at its own length. Raises DataError for a row without a target."""
        if not examples:
            return []
        for example in examples:
            if example.label is None:
                raise DataError.at("the corpus", "there is no target text.", row=example.row + 1)
            if isinstance(example.text, Conversation):
                raise DataError.at("the corpus", "a conversation: train on those with CausalLM.", row=example.row + 1)
        sources = self._tokenized(tokenizer, [example.text for example in examples], self.max_length)
        labels = [str(example.label) for example in examples]
        found = self._tokenized(tokenizer, labels, self.max_target_length or self.max_length, target=True)
        made = []
        for example, source, target in zip(examples, sources, found, strict=True):
            if not source.ids or not target.ids:
                what = f"the tokenizer makes no token of this {'target' if source.ids else 'text'}."
                raise DataError.at("the corpus", what, row=example.row + 1)
            spans = list(target.offsets)
            encoding = self._encoding(source, list(target.ids), spans, str(example.label), example, offsets)
            made.append(replace(encoding, truncated=bool(source.overflowing or target.overflowing)))
        return made

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """One batch, padded on the right: ids and mask of encoder and decoder, and targets."""
        fill = padding_id(tokenizer)
        ids, mask = padded([encoding.input_ids for encoding in encodings], fill)
        read, seen = padded([encoding.decoder_input_ids or [] for encoding in encodings], fill)
        targets, _ = padded([encoding.targets or [] for encoding in encodings], NO_TARGET)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": read,
            "decoder_attention_mask": seen,
            "targets": targets,
        }

    def target_logits(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch places vocabulary"], Int[Tensor, "batch places"]]:
        """The logits of the decoder's places, and the targets there (NO_TARGET: none).

        Raises ModelError where the model itself would give its decoder other tokens for these targets.
        """
        targets = batch["targets"]
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        self._check_shift(model, inputs, targets)
        return model(**inputs, **without_cache(model)).logits, targets

    def token_sums(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Per example: the sum of its tokens' losses in float32, and how many tokens these are."""
        return summed(*self.target_logits(model, batch))

    def losses(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each example in float32: the sum, or the mean, over its target tokens."""
        return reduced(*self.token_sums(model, batch), self.reduction)

    def batch_loss(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean over the batch's target tokens, or ("mean") over its examples."""
        return batch_mean(*self.token_sums(model, batch), self.reduction)

    def predict(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Raise UsageError: there are no classes."""
        raise no_classes()

    def reply(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, example: Example, most: int
    ) -> Reply | None:
        """Answer the example's source greedily, by at most `most` tokens."""
        (source,) = self._tokenized(tokenizer, [example.text], self.max_length)
        made = greedy(model, source.ids, tokenizer=tokenizer, most=most, start=[self._start()])
        text, found = decoded_spans(tokenizer, made)
        answered = replace(example, label=text)
        spans = [span or (0, 0) for span in found]
        encoding = self._encoding(source, made, spans, text, answered, True)
        return Reply(answered, replace(encoding, truncated=bool(source.overflowing)))

    def check_model(self, config: PreTrainedConfig) -> None:
        """Refuse models without a decoder of their own, and those saved with another head."""
        if not config.is_encoder_decoder:
            raise ModelError(f"{config.model_type} is no encoder-decoder model: use CausalLM, not Seq2Seq.")
        refuse_head(config, "sequence-to-sequence model")
        if self.start_token is None and _start_token(config) is None:
            raise ModelError(f"the {config.model_type} model's configuration has no decoder_start_token_id.")

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> Seq2Seq:
        """The same task with lengths and `start_token` filled in. Raises ModelError if they do not suit the model."""
        length = checked_length(self.max_length, tokenizer, config)
        target = self.max_target_length
        if target is not None:
            target = checked_length(target, tokenizer, config, name="max_target_length")
        start = _start_token(config)
        if self.start_token is not None and start is not None and start != self.start_token:
            raise ModelError(f"start_token is {self.start_token}, but the model's decoder begins with {start}.")
        return replace(self, max_length=length, max_target_length=target or length, start_token=start)

    def shown(self, example: Example) -> Example:
        """The source as `text`, the target as `text_pair`."""
        return example if example.label is None else replace(example, text_pair=str(example.label))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Seq2Seq:
        """The task that `to_json` described."""
        return cls(**{name: value for name, value in saved.items() if name in {field.name for field in fields(cls)}})

    def _start(self) -> int:
        if self.start_token is None:
            raise ModelError("Seq2Seq does not know what the decoder begins with. Say Seq2Seq(start_token=...).")
        return self.start_token

    def _tokenized(
        self, tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int | None, *, target: bool = False
    ) -> list[Any]:
        batch = tokenizer(
            **{"text_target" if target else "text": texts},
            truncation=True,
            max_length=int(min(length or tokenizer.model_max_length, 1 << 30)),
            padding=False,
        )
        return list(batch.encodings or [])

    def _encoding(
        self,
        source: Any,
        target: list[int],
        spans: list[tuple[int, int]],
        completion: str,
        example: Example,
        offsets: bool,
    ) -> Encoding:
        """The decoder reads the start token and then the target without its last token: spans move along."""
        shown: list[tuple[int, int]] | None = None
        parts: list[int | None] | None = None
        if offsets:
            ours, named = shown_spans(source.offsets, [Piece(0, len(example.text), 0)])
            theirs, also = shown_spans([(0, 0), *spans[:-1]], [Piece(0, len(completion), 1)])
            shown, parts = [*ours, *theirs], [*named, *also]
        return Encoding(
            input_ids=list(source.ids),
            token_type_ids=None,
            offsets=shown,
            parts=parts,
            truncated=False,
            targets=target,
            decoder_input_ids=[self._start(), *target[:-1]],
        )

    def _check_shift(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Tensor) -> None:
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        if shift is None:
            return
        seen = inputs["decoder_attention_mask"].bool()
        theirs: Tensor = shift(labels=targets)
        if not torch.equal(theirs[seen], inputs["decoder_input_ids"][seen]):
            raise ModelError(
                f"{type(model).__name__} moves its targets in a way of its own (a language code in front?): "
                "Seq2Seq does not support it."
            )


def _start_token(config: PreTrainedConfig) -> int | None:
    for name in ("decoder_start_token_id", "bos_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, int):
            return token
    return None
