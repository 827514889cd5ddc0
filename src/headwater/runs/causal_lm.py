"""Causal language models: the loss of a completion, given its prompt; or of every token of a plain text.

    loss = - sum over the tokens t of the completion  log p(t | prompt, completion before t)      ("mean": per token)

The completion is what a row teaches and what a query explains. It stands in the corpus's label column
(`Columns(text=prompt column, label=completion column)`), or is the assistant's last turn of a conversation
(`Columns(text="messages", label=None)`). Plain texts (`Columns(label=None)`) count whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError, UsageError
from headwater.models.greedy import decoded_spans, greedy
from headwater.runs.chat import Frame, chat_frame, conversation_text, plain_frame, split_turns
from headwater.runs.conversation import Conversation
from headwater.runs.corpus import Example, Label
from headwater.runs.language import (
    batch_mean,
    check_options,
    check_texts,
    end_token,
    is_encoder,
    next_token_logits,
    no_classes,
    padded,
    padding_id,
    reduced,
    refuse_head,
    shown_spans,
    summed,
)
from headwater.runs.task import NO_TARGET, Encoding, Reply, checked_length, position_limit


@dataclass(frozen=True)
class CausalLM:
    """Next-token loss of completions, conversations or plain texts, with any `AutoModelForCausalLM` model."""

    max_length: int | None = None
    """Tokens at which prompt and completion together are cut, at their end, as in training; None: the model's limit."""
    reduction: str = "sum"
    """`sum` over an example's tokens, as a Trainer weighs them, or their `mean`: every example counts the same."""
    separator: str = ""
    """What stands between prompt and completion, where the rows do not hold it themselves."""
    end: bool = True
    """Whether the end token follows a text, and is learned (a chat template writes its own)."""
    chat: bool | Literal["auto"] = "auto"
    """The tokenizer's chat template: for conversations ("auto"), also for plain prompts (True), or never (False)."""

    kind: ClassVar[str] = "causal-lm"
    auto: ClassVar[str] = "AutoModelForCausalLM"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self.reduction, max_length=self.max_length)
        if self.chat not in (True, False, "auto"):
            raise UsageError(f"chat must be True, False or 'auto', not {self.chat!r}.")

    def targets(
        self,
        labels: Sequence[Label | None],
        config: PreTrainedConfig,
        *,
        where: str,
        rows: Sequence[int] | None = None,
    ) -> list[int]:
        """Zeros: the targets are tokens, and stand in the encodings. Raises DataError for a label that is no text."""
        check_texts(labels, where=where, rows=rows, what="completion")
        return [0] * len(labels)

    def encode(
        self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize prompt and completion as one text; the loss counts the tokens that reach into the completion.

        Cut at `max_length` from the end, so a completion keeps its beginning. Raises DataError for a row of whose
        completion no token is left.
        """
        frames = [self._frame(tokenizer, example) for example in examples]
        tokens = _tokenized(tokenizer, frames)
        return [
            self._encoded(tokenizer, example, frame, ids, spans, offsets)
            for example, frame, (ids, spans) in zip(examples, frames, tokens, strict=True)
        ]

    def collate(
        self, encodings: Sequence[Encoding], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """One batch, padded on the right whatever the tokenizer's side: input_ids, attention_mask and targets."""
        ids, mask = padded([encoding.input_ids for encoding in encodings], padding_id(tokenizer))
        targets, _ = padded([encoding.targets or [] for encoding in encodings], NO_TARGET)
        return {"input_ids": ids, "attention_mask": mask, "targets": targets}

    def target_logits(
        self, model: PreTrainedModel, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch places vocabulary"], Int[Tensor, "batch places"]]:
        """The logits of the places that speak of a target, and the targets there (NO_TARGET: none)."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        return next_token_logits(model, inputs, batch["targets"])

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
        """Continue the example's prompt greedily, by at most `most` tokens; None for an answered conversation.

        Raises DataError for a prompt that leaves the model no room.
        """
        if isinstance(example.text, Conversation) and split_turns(example)[1] is not None:
            return None
        frame = self._prompt_frame(tokenizer, example)
        ((ids, spans),) = _tokenized(tokenizer, [frame])
        ids, spans = _without_end(ids, spans, tokenizer)
        limit = position_limit(model.config)
        room = most if limit is None else min(most, limit - len(ids))
        if room < 1:
            what = f"its {len(ids)} tokens leave the model ({limit}) no room to answer."
            raise DataError.at("the queries", what, row=example.row + 1)
        made = greedy(model, ids, tokenizer=tokenizer, most=room)
        text, found = decoded_spans(tokenizer, made)
        shown, parts = shown_spans(spans, frame.pieces)
        encoding = Encoding(
            input_ids=[*ids, *made],
            token_type_ids=None,
            offsets=[*shown, *(span or (0, 0) for span in found)],
            parts=[*parts, *(None if span is None else 1 for span in found)],
            truncated=False,
            targets=[*[NO_TARGET] * len(ids), *made],
        )
        return Reply(replace(example, label=text), encoding)

    def check_model(self, config: PreTrainedConfig) -> None:
        """Refuse models that do not read from left to right, and those saved with another head."""
        if config.is_encoder_decoder:
            raise ModelError(f"{config.model_type} is an encoder-decoder model: use Seq2Seq, not CausalLM.")
        if is_encoder(config) or config.model_type in ("xlnet", "xlm"):
            raise ModelError(f"{config.model_type} sees the tokens it is to predict (is_decoder is not set).")
        refuse_head(config, "causal language model")

    def with_limit(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> CausalLM:
        """The same task with `max_length` filled in. Raises ModelError if it is longer than the model allows."""
        return replace(self, max_length=checked_length(self.max_length, tokenizer, config))

    def shown(self, example: Example) -> Example:
        """The prompt as `text`, the completion as `text_pair` and `label`; a plain text as it is."""
        if not isinstance(example.text, Conversation):
            return example if example.label is None else replace(example, text_pair=str(example.label))
        turns, completion = split_turns(example)
        return replace(example, text=conversation_text(turns), text_pair=completion, label=completion)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> CausalLM:
        """The task that `to_json` described."""
        return cls(**{name: value for name, value in saved.items() if name in {field.name for field in fields(cls)}})

    def _templated(self, example: Example) -> bool:
        conversation = isinstance(example.text, Conversation)
        if conversation and self.chat is False:
            raise DataError.at("the corpus", "a conversation, but the task says chat=False.", row=example.row + 1)
        return conversation or self.chat is True

    def _frame(self, tokenizer: PreTrainedTokenizerFast, example: Example) -> Frame:
        if not self._templated(example):
            label = None if example.label is None else str(example.label)
            return plain_frame(example.text, self.separator, label)
        turns, completion = split_turns(example)
        if completion is None:
            fix = "Give completions in a column of their own, Columns(label=...), or drop the row."
            raise DataError.at(
                "the corpus", "there is no turn of the assistant at its end.", row=example.row + 1, fix=fix
            )
        return chat_frame(tokenizer, turns, completion)

    def _prompt_frame(self, tokenizer: PreTrainedTokenizerFast, example: Example) -> Frame:
        if self._templated(example):
            return chat_frame(tokenizer, split_turns(replace(example, label=None))[0], None)
        return plain_frame(example.text, self.separator, "")

    def _encoded(
        self,
        tokenizer: PreTrainedTokenizerFast,
        example: Example,
        frame: Frame,
        ids: list[int],
        spans: list[tuple[int, int]],
        offsets: bool,
    ) -> Encoding:
        begin = next((at for at, (_, end) in enumerate(spans) if end > frame.start), len(ids)) if frame.start else 0
        if self.end and not frame.templated and (not ids or ids[-1] != tokenizer.eos_token_id):
            ids, spans = [*ids, end_token(tokenizer, "CausalLM")], [*spans, (0, 0)]
        limit = int(min(self.max_length or tokenizer.model_max_length, 1 << 30))
        kept = ids[:limit]
        if max(begin, 1) >= len(kept):  # the first token of all is never predicted
            what = "its text is too short: there is no token to predict."
            fix = ""
            if len(ids) > limit and begin >= limit:
                what = f"its prompt has {begin} of the {limit} tokens allowed, so nothing of its completion is left."
                fix = "Raise max_length, or shorten or drop the row."
            raise DataError.at("the corpus", what, row=example.row + 1, fix=fix)
        shown, parts = shown_spans(spans[:limit], frame.pieces) if offsets else (None, None)
        return Encoding(
            input_ids=kept,
            token_type_ids=None,
            offsets=shown,
            parts=parts,
            truncated=len(ids) > limit,
            targets=[*[NO_TARGET] * begin, *kept[begin:]],
        )


def _tokenized(
    tokenizer: PreTrainedTokenizerFast, frames: Sequence[Frame]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The tokens of each frame and their character spans; a template's text gets no special tokens beside its own."""
    made: list[Any] = [None] * len(frames)
    for templated in (False, True):
        places = [place for place, frame in enumerate(frames) if frame.templated is templated]
        if not places:
            continue
        texts = [frames[place].text for place in places]
        batch = tokenizer(texts, add_special_tokens=not templated, truncation=False, padding=False, verbose=False)
        for place, tokens in zip(places, batch.encodings or [], strict=True):
            made[place] = (list(tokens.ids), list(tokens.offsets))
    return made


def _without_end(
    ids: list[int], spans: list[tuple[int, int]], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[tuple[int, int]]]:
    """A prompt as the model waits after it: without the end token that some tokenizers put there themselves."""
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and spans[-1] == (0, 0):
        return ids[:-1], spans[:-1]
    return ids, spans
