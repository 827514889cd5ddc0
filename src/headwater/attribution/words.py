"""From tokens to words: what a person reads, found by the tokenizer's character offsets.

A word is a run of letters and digits, with apostrophes and hyphens inside it; any other visible character stands
alone, and so does each character of scripts that are written without spaces.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.runs import Encoding, Example

# Han, kana, Thai, Lao, Khmer, Myanmar: one character a word, because no space ends a word there.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = rf"(?:(?![{_UNSPACED}_])\w)"
# A letter may carry marks (Devanagari vowels, Hebrew points); they are no \w, and belong to it.
_WORD = re.compile(
    rf"{_LETTER}(?:{_LETTER}|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff])*"
    rf"(?:['’\-]{_LETTER}+)*|[^\s]"
)


@dataclass(frozen=True, order=True)
class Word:
    """A word of a text: characters start..end-1 of text `part` (0 the text, 1 the second text)."""

    start: int
    end: int
    part: int


@dataclass(frozen=True)
class Words:
    """The words of an example, and the word that each token place belongs to (None: a special token)."""

    texts: tuple[str, ...]
    words: tuple[Word, ...]
    of_place: tuple[int | None, ...]

    def surface(self, word: int) -> str:
        """Return the word as it is written."""
        found = self.words[word]
        return self.texts[found.part][found.start : found.end]


@dataclass(frozen=True)
class Texts:
    """An encoded example and its words."""

    example: Example
    encoding: Encoding
    words: Words

    @classmethod
    def of(cls, example: Example, encoding: Encoding) -> Texts:
        """Split the example, as its task shows it, into words."""
        texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
        return cls(example, encoding, split_words(texts, encoding))


def split_words(texts: Sequence[str], encoding: Encoding) -> Words:
    """Split an encoded example into words. `encoding` must hold offsets; tokens of cut-off text are not there."""
    assert encoding.offsets is not None and encoding.parts is not None
    words: list[Word] = []
    begins: list[list[int]] = []  # where the words of each text begin, and what number the first one has
    firsts: list[int] = []
    for part, text in enumerate(texts):
        spans = [match.span() for match in _WORD.finditer(text)]
        firsts.append(len(words))
        begins.append([start for start, _ in spans])
        words.extend(Word(start, end, part) for start, end in spans)
    of_place: list[int | None] = []
    for (start, _), in_text in zip(encoding.offsets, encoding.parts, strict=True):
        if in_text is None or not begins[in_text]:
            of_place.append(None)
            continue
        visible = _first_visible(texts[in_text], start)
        of_place.append(firsts[in_text] + max(bisect.bisect_right(begins[in_text], visible) - 1, 0))
    return Words(tuple(texts), tuple(words), tuple(of_place))


def _first_visible(text: str, start: int) -> int:
    """Return the first character from `start` on that is no space.

    Byte-level tokens begin with the space before them; one that is a space alone belongs to the word that it opens.
    """
    at = start
    while at < len(text) and text[at].isspace():
        at += 1
    return at
