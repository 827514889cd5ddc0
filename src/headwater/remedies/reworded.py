"""Which words of a text went, and which came: the old and the new text as one row of pieces."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

Piece = tuple[Literal["same", "old", "new"], str]

MOST = 1000  # words compared one by one: longer changes are told as a whole, since comparing takes their product

_WORDS = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")  # with the space before, lest spaces count as words that stayed


@lru_cache(maxsize=512)
def reworded(old: str, new: str) -> tuple[Piece, ...]:
    """The pieces in order; `same` and `old` ones together are the old text, `same` and `new` ones the new text."""
    one, two = _WORDS.findall(old), _WORDS.findall(new)
    first = 0
    while first < min(len(one), len(two)) and one[first] == two[first]:
        first += 1
    last = 0
    while last < min(len(one), len(two)) - first and one[-1 - last] == two[-1 - last]:
        last += 1
    end = len(one) - last
    found = [("same", one[:first]), *_between(one[first:end], two[first : len(two) - last]), ("same", one[end:])]
    return tuple((kind, "".join(words)) for kind, words in found if words)  # type: ignore[misc]


def _between(one: list[str], two: list[str]) -> list[tuple[str, list[str]]]:
    if max(len(one), len(two)) > MOST:
        return [("old", one), ("new", two)]
    found: list[tuple[str, list[str]]] = []
    for kind, start, stop, begin, end in SequenceMatcher(None, one, two).get_opcodes():
        found += [("same", one[start:stop])] if kind == "equal" else [("old", one[start:stop]), ("new", two[begin:end])]
    return found
