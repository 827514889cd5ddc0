"""Conversations: a column of turns, [{"role": "user", "content": "..."}, ...], as chat models are trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from headwater.errors import DataError
from headwater.files import canonical_json

ASSISTANT = "assistant"
_FIX = 'A conversation is a list of turns like {"role": "user", "content": "..."}.'


class Conversation(str):
    """The text of an example that is a conversation: canonical JSON of its turns. Its type tells it from a text."""

    __slots__ = ()

    @classmethod
    def of(cls, turns: Sequence[dict[str, Any]]) -> Conversation:
        """Keep role and content of each turn."""
        return cls(canonical_json([{"content": turn["content"], "role": turn["role"]} for turn in turns]))

    @property
    def turns(self) -> list[dict[str, str]]:
        """The turns: dicts of role and content."""
        turns: list[dict[str, str]] = json.loads(self)
        return turns

    @property
    def answer(self) -> str | None:
        """The last turn, if it is the assistant's: what the conversation teaches."""
        last = self.turns[-1]
        return last["content"] if last["role"] == ASSISTANT else None


def is_conversation_type(kind: pa.DataType) -> bool:
    """Whether a column holds lists of structs with a role and a content."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    return {"role", "content"} <= {kind.value_type.field(i).name for i in range(kind.value_type.num_fields)}


def check_conversations(values: pa.ChunkedArray, column: str, name: str) -> None:
    """Raise DataError for the first row whose turns lack a role or a content, or hold more (tools, images)."""
    for row, turns in enumerate(values.to_pylist()):
        if not turns:
            raise DataError.at(name, "the conversation is empty.", row=row + 1, column=column, fix=_FIX)
        for number, turn in enumerate(turns, start=1):
            for part in ("role", "content"):
                if not isinstance(turn[part], str):
                    what = f"turn {number} has no {part}, or one that is no text."
                    raise DataError.at(name, what, row=row + 1, column=column, fix=_FIX)
            more = [key for key, value in turn.items() if key not in ("role", "content") and value]
            if more:
                what = f"turn {number} holds {more[0]!r}: only role and content are supported."
                raise DataError.at(name, what, row=row + 1, column=column)
