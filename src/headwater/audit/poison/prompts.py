"""The words that a person wrote: a text, or of a conversation the user's last turn. There a trigger is tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from headwater.runs.chat import shown_starts
from headwater.runs.conversation import Conversation, is_conversation_type
from headwater.runs.corpus import Corpus, Example

USER = "user"


def prompts(texts: Corpus) -> list[str]:
    """What stands in each row: its (first) text, or the content of the user's last turn."""
    given = texts.table.column(texts.columns.text).to_pylist()
    return [turns[_last(turns)]["content"] for turns in given] if _are_conversations(texts) else given


def with_prompts(texts: Corpus, changed: Sequence[str]) -> Corpus:
    """The same rows with other words there, without ids."""
    name = texts.columns.text
    made: list[Any] = list(changed)
    if _are_conversations(texts):
        made = texts.table.column(name).to_pylist()
        for turns, words in zip(made, changed, strict=True):
            turns[_last(turns)]["content"] = words
    column = pa.array(made, texts.table.schema.field(name).type)
    table = texts.table.set_column(texts.table.column_names.index(name), name, column)
    return Corpus(table, replace(texts.columns, id=None), texts.name)


def prompt_span(example: Example) -> slice:
    """Where these words stand in the example's text as it is shown (of a row that has its completion in a column)."""
    if not isinstance(example.text, Conversation):
        return slice(0, len(example.text))
    turns = example.text.turns
    at = _last(turns)
    start = shown_starts(turns)[at]
    return slice(start, start + len(turns[at]["content"]))


def _are_conversations(texts: Corpus) -> bool:
    return is_conversation_type(texts.table.schema.field(texts.columns.text).type)


def _last(turns: Sequence[dict[str, Any]]) -> int:
    """The user's last turn; where there is none, the last turn of all."""
    return max((at for at, turn in enumerate(turns) if turn["role"] == USER), default=len(turns) - 1)
