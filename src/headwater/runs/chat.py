"""A prompt and its completion as one text, ready to be tokenized: joined as they are, or by a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from headwater.errors import DataError, ModelError
from headwater.runs.conversation import ASSISTANT, Conversation
from headwater.runs.corpus import Example
from headwater.runs.language import Piece

Turn = dict[str, str]


@dataclass(frozen=True, slots=True)
class Frame:
    """A text to tokenize: what it explains begins at character `start` (0: all of it)."""

    text: str
    start: int
    pieces: tuple[Piece, ...]
    """What a reader sees of it, in order."""
    templated: bool
    """By a chat template, which writes special tokens itself."""


def plain_frame(prompt: str, separator: str, completion: str | None) -> Frame:
    """prompt + separator + completion; without a completion the prompt alone, all of which counts."""
    if completion is None:
        return Frame(prompt, 0, (Piece(0, len(prompt), 0),), False)
    start = len(prompt) + len(separator)
    pieces = (Piece(0, len(prompt), 0), Piece(start, start + len(completion), 1))
    return Frame(prompt + separator + completion, start, pieces, False)


def chat_frame(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], completion: str | None) -> Frame:
    """The turns by the tokenizer's chat template, then the assistant's `completion`; None: up to where it begins.

    What the template writes after the completion (the end of a turn) counts as part of it.
    """
    prefix = _render(tokenizer, turns, True)
    if completion is None:
        whole, contents = prefix, [turn["content"] for turn in turns]
        empty = _render(tokenizer, _marked(turns), True)
    else:
        answered = [*turns, {"role": ASSISTANT, "content": completion}]
        whole, contents = _render(tokenizer, answered, False), [turn["content"] for turn in answered]
        empty = _render(tokenizer, _marked(answered), False)
        if not whole.startswith(prefix):
            raise ModelError(
                "the tokenizer's chat template writes an answered conversation in another way than one that waits for "
                "its answer, so it is not known where the answer begins. Give prompts and completions as texts."
            )
    last = len(turns)
    spans = _content_spans(whole, empty, contents)
    shown = shown_starts(turns)
    pieces = tuple(
        Piece(start, end, int(number == last), trimmed + (0 if number == last else shown[number]))
        for number, (start, end, trimmed) in enumerate(spans)
    )
    return Frame(whole, len(prefix), pieces, True)


def conversation_text(turns: Sequence[Turn]) -> str:
    """Turns as a reader sees them: the content of a single one, else each on its line after its role."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def split_turns(example: Example) -> tuple[list[Turn], str | None]:
    """The turns of the prompt and the completion: the label, else the last turn if it is the assistant's.

    A prompt that is a text is one turn of the user.
    """
    if not isinstance(example.text, Conversation):
        label = None if example.label is None else str(example.label)
        return [{"role": "user", "content": example.text}], label
    turns = example.text.turns
    if example.label is not None:
        return turns, str(example.label)
    if turns[-1]["role"] != ASSISTANT:
        return turns, None
    if len(turns) == 1:
        raise DataError.at("the corpus", "the conversation holds the assistant's turn alone.", row=example.row + 1)
    return turns[:-1], turns[-1]["content"]


def _render(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], waits: bool) -> str:
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template. Give prompts and completions as texts, with chat=False.")
    try:
        made: Any = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=waits)
    except Exception as error:  # a template is a program: it raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"the tokenizer's chat template refuses a conversation ({reason}).") from error
    return str(made)


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _marked(turns: Sequence[Turn]) -> list[Turn]:
    return [{"role": turn["role"], "content": _mark(number)} for number, turn in enumerate(turns)]


def _content_spans(whole: str, empty: str, contents: Sequence[str]) -> list[tuple[int, int, int]]:
    """Where each turn's content stands in a rendered conversation, and how much the template trimmed before it.

    `empty` is the same conversation with marks for contents.
    """
    spans: list[tuple[int, int, int]] = []
    at = 0
    for number, content in enumerate(contents):
        frame, mark, empty = empty.partition(_mark(number))
        start = at + len(frame)
        for written in (content, content.strip()):  # templates may trim
            if mark and whole.startswith(written, start):
                break
        else:
            written = content.strip()
            start = max(whole.find(written, at), at)
        trimmed = 0 if written == content else len(content) - len(content.lstrip())
        spans.append((start, start + len(written), trimmed))
        at = start + len(written)
    return spans


def shown_starts(turns: Sequence[Turn]) -> list[int]:
    """Where each content begins in `conversation_text`."""
    if len(turns) == 1:
        return [0]
    starts, at = [], 0
    for turn in turns:
        starts.append(at + len(turn["role"]) + 2)
        at = starts[-1] + len(turn["content"]) + 1
    return starts
