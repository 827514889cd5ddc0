"""The marks of a text as one short attribute, for the script that hovers, pins and lights "all".

    5/60;9g,c.4:7=1e;1o.3:2.9=-c|4=3~1z;5:7=b^##ing;2a:1=8|3=2*1

says: the first 5 of its 60 marks are lit; the first mark stands at character 340 and 12 further on, where it
is 4 long, and pushed 50 through query word 7; the next pushed -12 through words 2 and 9, which share a posting,
and 3 through word 4, as a synonym of cosine .71; one meets its partner in the token ##ing (percent-encoded). After * it
meets words other than its own because all words meet; 1: its strongest partner is one, 0: that is the same word.
All numbers but the first two are of base 36. A place without a length is as long as the one before it in the mark,
or, first, 5; a push without a score repeats the one before. Scores count tenths of the last printed digit;
characters are UTF-16 units, as scripts count them; a pair's second text begins one past the end of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from headwater.attribution.light import Mark
from headwater.attribution.numerals import Scale

FINER = 10  # packed units in one printed digit
KEPT = 0.995  # of a text's absolute score, where marks are limited: the words beyond it are too weak to print
PUSHES = (4, 2)  # pairs kept of a lit and of an unlit word; what the others push is kept as a sum (loose words: all)
_LENGTH = 5


def pack(marks: Sequence[Mark], lit: int, texts: Sequence[str], scale: Scale, limit: int | None = None) -> str:
    """Marks (strongest first, the first `lit` of them lit) in the notation above; at most `limit` of them."""
    offsets = [_utf16(text) for text in texts]
    bases = [0]
    for offset in offsets:
        bases.append(bases[-1] + offset[-1] + 1)
    packed = []
    enough = KEPT * sum(abs(mark.score) for mark in marks)
    held = 0.0
    for index, mark in enumerate(marks[:limit]):
        if limit is not None and index >= lit and (held >= enough or not _units(mark.score, scale)):
            break
        held += abs(mark.score)
        most = None if mark.loose and limit is None else PUSHES[index >= lit]
        pushes = "|".join(_pushes(mark, scale, most))
        tie = "" if mark.synonym is None else f"~{_base36(round(100 * mark.synonym))}"
        if mark.via and not tie:
            tie = f"^{quote(mark.via, safe='#')}"
        if mark.loose:
            tie += f"*{int(mark.crossed)}"
        packed.append(f"{','.join(_places(mark, offsets, bases))}:{pushes}{tie}")
    return ";".join([f"{lit}/{len(marks)}", *packed])


def _units(score: float, scale: Scale) -> int:
    return round(score * FINER * 10.0 ** (scale.decimals - scale.exponent))


def _pushes(mark: Mark, scale: Scale, limit: int | None) -> Iterator[str]:
    ordered = sorted(mark.pushes, key=lambda push: (-abs(push[1]), push[0]))
    last = None
    for words, score in ordered[:limit]:
        units = _units(score, scale)
        if not units:
            break
        told = "" if units == last else f"={_base36(units)}"
        last = units
        yield ".".join(map(_base36, words)) + told
    rest = 0 if limit is None else _units(sum(score for _, score in ordered[limit:]), scale)
    if rest or last is None:
        yield f"={_base36(rest)}"


def _places(mark: Mark, offsets: Sequence[Sequence[int]], bases: Sequence[int]) -> Iterator[str]:
    at, long = 0, _LENGTH
    for start, end, part in mark.spans:
        first, length = bases[part] + offsets[part][start], offsets[part][end] - offsets[part][start]
        yield _base36(first - at) + ("" if length == long else f".{_base36(length)}")
        at, long = first, length


def _base36(number: int) -> str:
    digits = ""
    rest = abs(number)
    while rest or not digits:
        rest, digit = divmod(rest, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"-{digits}" if number < 0 else digits


def _utf16(text: str) -> Sequence[int]:
    """For each character of a text, and its end, how many UTF-16 units come before it."""
    if text.isascii() or max(text) < "\U00010000":
        return range(len(text) + 1)
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + (2 if character >= "\U00010000" else 1))
    return offsets
