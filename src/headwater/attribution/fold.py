"""Long texts folded: windows of six words around the lit ones, and how much lies between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LIMIT = 40  # words; a longer text is folded
AROUND = 3  # words kept on either side of a lit one: windows of six
SHORTEST = 10  # words; a shorter gap is not worth a fold

# Scripts that put no spaces between words (Thai to Myanmar, kana, Han, Hangul is spaced): a character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f"
_PIECE = 40  # characters: what has no space for longer is cut, so that a huge "word" folds too
_UNIT = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]{{1,{_PIECE}}}")


@dataclass(frozen=True, slots=True)
class Unit:
    """A word as folding counts it: characters [start, end); spaced is False for a piece of unspaced text."""

    start: int
    end: int
    spaced: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Characters [start, end) of a text, shown or folded away; amount says how much: "212 words"."""

    start: int
    end: int
    shown: bool
    amount: str = ""


def units(text: str) -> list[Unit]:
    """The words of a text; never cuts an emoji sequence or a letter from its marks."""
    found: list[Unit] = []
    for match in _UNIT.finditer(text):
        start, end = match.span()
        if found and found[-1].end == start and _joined(text, start):
            found[-1] = Unit(found[-1].start, end, False)
        else:
            spaced = (start == 0 or text[start - 1].isspace()) and (end == len(text) or text[end].isspace())
            found.append(Unit(start, end, spaced))
    return found


def _joined(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the one before it on screen."""
    here, before = text[at], text[at - 1]
    return (
        unicodedata.category(here) in ("Mn", "Me", "Mc")
        or "\u200d" in (here, before)
        or "\U0001f3fb" <= here <= "\U0001f3ff"
    )


def count_words(text: str) -> int:
    """How many words a text has, as folding counts them."""
    return len(units(text))


def fold(text: str, lit: Sequence[tuple[int, int]], around: int = AROUND) -> list[Window]:
    """Windows over the whole text, shown and folded in turn; `lit` are the character spans to keep in view."""
    words = units(text)
    keep = [False] * len(words)
    for index, word in enumerate(words):
        if any(start < word.end and word.start < end for start, end in lit):
            for near in range(max(0, index - around), min(len(words), index + around + 1)):
                keep[near] = True
    if not any(keep):
        keep[: LIMIT // 2] = [True] * min(len(words), LIMIT // 2)
    _fill_short_gaps(keep)
    return _windows(text, words, keep)


def _fill_short_gaps(keep: list[bool]) -> None:
    start = None
    for index, kept in enumerate([*keep, True]):
        if not kept and start is None:
            start = index
        elif kept and start is not None:
            if index - start < SHORTEST:
                keep[start:index] = [True] * (index - start)
            start = None


def _windows(text: str, words: Sequence[Unit], keep: Sequence[bool]) -> list[Window]:
    windows: list[Window] = []
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or keep[index] != keep[first]:
            start = words[first].start if windows else 0
            # Spaces stay with the words before them, so that a folded text begins and ends at a word.
            end = words[index].start if index < len(words) else len(text)
            windows.append(Window(start, end, keep[first], amount(words[first:index])))
            first = index
    return windows or [Window(0, len(text), True)]


def amount(words: Sequence[Unit]) -> str:
    """How much a gap hides, in words; in characters where the text has no words to count."""
    if all(word.spaced for word in words):
        return f"{len(words):,} word{'s' if len(words) != 1 else ''}"
    if sum(word.spaced for word in words) * 2 >= len(words):
        return f"about {len(words):,} words"
    return f"{sum(word.end - word.start for word in words):,} characters"
