"""Which words of a text are lit, and how strongly: the strongest up to 90% of its absolute score, at most 12.

A *mark* is what the index knows as one posting: a word of a text, with every place that shares it. It is counted
once, however many places show it. Four tones, one scale a query; each tone is twice as strong as the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int, int]
"""Characters [start, end) of a part: 0 the text, 1 its pair."""

SHARE = 0.9  # of a text's absolute score that its lit words explain
LIMIT = 12  # lit words a text, at most
_SPACE_MARKS = "Ġ▁"  # how byte-level and sentencepiece tokens write the space before them


@dataclass(frozen=True, slots=True)
class Mark:
    """A word of a text: where it stands, and what it pushed through each word of the query.

    spans: every place that shares it, in order. pushes: (query words by number, score), a pair of words each.
    synonym: cosine of the embeddings when it meets another word than itself, else None. via: the token that it
    shares with its strongest partner, when the two words differ ("winning" and "calling" meet in "##ing"). loose: it
    meets words other than its own because every word meets every other; crossed: its strongest partner is one.
    """

    word: str
    spans: tuple[Span, ...]
    pushes: tuple[tuple[tuple[int, ...], float], ...]
    synonym: float | None = None
    via: str | None = None
    loose: bool = False
    crossed: bool = False

    @property
    def score(self) -> float:
        """What all its pairs add up to."""
        return sum(score for _, score in self.pushes)

    @property
    def partner(self) -> int | None:
        """The query word that it meets most strongly."""
        met = [push for push in self.pushes if push[0]]
        return max(met, key=lambda push: abs(push[1]))[0][0] if met else None


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a part that marks cover: characters [start, end), their summed score, the first of the marks."""

    start: int
    end: int
    score: float
    mark: Mark


def marks_of(pairs: Iterable[Mapping[str, Any]], query_words: Sequence[Sequence[int]]) -> list[Mark]:
    """Group a row's word pairs by the training word's places; the strongest first.

    Special tokens are left out, and what is no pair of words (`WordPair.part`).
    """
    number = {tuple(span): index for index, span in enumerate(query_words)}
    groups: dict[tuple[Span, ...], list[Mapping[str, Any]]] = {}
    for pair in pairs:
        if not pair.get("special") and pair.get("part", "words") == "words":
            spans = tuple(sorted((int(s), int(e), int(p)) for s, e, p in pair.get("train_spans") or ()))
            groups.setdefault(spans, []).append(pair)
    marks = [_mark(spans, members, number) for spans, members in groups.items()]
    return sorted(marks, key=lambda mark: (-abs(mark.score), mark.spans))


def _mark(spans: tuple[Span, ...], members: Sequence[Mapping[str, Any]], number: Mapping[Any, int]) -> Mark:
    pushes = tuple(
        (
            tuple(number[key] for span in pair.get("query_spans") or () if (key := tuple(span)) in number),
            pair["score"],
        )
        for pair in members
    )
    ties = [pair["synonym"] for pair in members if pair.get("synonym") is not None]
    synonym = max(map(float, ties)) if len(ties) == len(members) else None
    strongest = max(members, key=lambda pair: abs(pair["score"]))
    via = str(strongest.get("via") or "").lstrip(_SPACE_MARKS)
    met = [(pair, push) for pair, push in zip(members, pushes, strict=True) if push[0]]
    partner = max(met, key=lambda found: abs(found[1][1]))[0] if met else strongest
    return Mark(
        str(members[0]["train"]),
        spans,
        pushes,
        synonym,
        via or None,
        loose=any(map(_is_crossed, members)),
        crossed=bool(met) and _is_crossed(partner),
    )


def _is_crossed(pair: Mapping[str, Any]) -> bool:
    """Whether two different words meet, though no token or meaning is theirs in common."""
    tied = pair.get("synonym") is not None or pair.get("via")
    return not tied and str(pair["train"]).casefold() != str(pair["query"]).casefold()


def query_marks(words: Sequence[Sequence[int]], sides: Iterable[Iterable[Mark]], text: Sequence[str]) -> list[Mark]:
    """The query's own words, each with what the stronger of the two columns' rows pushed through it.

    The two sides are not netted: a word that taught both ways would look as if it had taught nothing.
    """
    totals = [_by_query_word(side) for side in sides]
    marks = []
    for index, (start, end, part) in enumerate(words):
        score = max((total.get(index, 0.0) for total in totals), key=abs, default=0.0)
        if score:
            marks.append(Mark(text[part][start:end], ((start, end, part),), (((index,), score),)))
    return sorted(marks, key=lambda mark: (-abs(mark.score), mark.spans))


def _by_query_word(side: Iterable[Mark]) -> dict[int, float]:
    total: dict[int, float] = {}
    for mark in side:
        for indices, score in mark.pushes:
            for index in indices:
                total[index] = total.get(index, 0.0) + score
    return total


def count_lit(marks: Sequence[Mark], share: float = SHARE, limit: int = LIMIT) -> int:
    """How many of `marks` (strongest first) to light: the fewest that hold `share` of the absolute score."""
    wanted = share * sum(abs(mark.score) for mark in marks)
    held = 0.0
    for count, mark in enumerate(marks):
        if count == limit or held >= wanted or not mark.score or not mark.spans:
            return count
        held += abs(mark.score)
    return len(marks)


def tone(score: float, scale: float) -> int:
    """1 to 4: below an eighth of the scale, a quarter, a half, and above."""
    ratio = abs(score) / scale if scale else 0.0
    return 1 + sum(ratio >= step for step in (1 / 8, 1 / 4, 1 / 2))


def tone_class(score: float, scale: float) -> str:
    """The CSS class of a lit word: p1 to p4 pushes toward, n1 to n4 away."""
    return f"{'n' if score < 0 else 'p'}{tone(score, scale)}"


def places(marks: Iterable[Mark], part: int, length: int) -> list[Place]:
    """Where marks stand in one part of `length` characters: disjoint, in order.

    Marks that share a place add up there; of two that overlap in part, the later is cut to what is left.
    """
    covering: dict[tuple[int, int], list[Mark]] = {}
    for mark in marks:
        for start, end, where in mark.spans:
            if where == part and 0 <= start < end <= length:
                covering.setdefault((start, end), []).append(mark)
    found: list[Place] = []
    for (start, end), here in sorted(covering.items()):
        begin = max(start, found[-1].end) if found else start
        if begin < end:
            found.append(Place(begin, end, sum(mark.score for mark in here), here[0]))
    return found
