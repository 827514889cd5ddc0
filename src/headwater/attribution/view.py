"""An answer as it is shown: which words are lit, what is folded, which numbers stand beside them.

The page, the notebook and the terminal all draw the dataclasses below; nothing is decided twice. The input is the dict
of `Attributions.to_dict()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headwater.attribution import fold, light
from headwater.attribution.light import Mark
from headwater.attribution.numerals import Scale, percentile
from headwater.attribution.sentence import Bit, facts, sentence, short_label, true_label
from headwater.attribution.strip import Strip, strip

Answer = Mapping[str, Any]
"""What `Attributions.to_dict()` gives."""

_UNHOLDABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: plain, lit (with tone and note), or folded away (with a label such as "212 words, +0.03")."""

    kind: Literal["text", "lit", "gap"]
    text: str
    tone: str = ""  # p1..p4, n1..n4
    note: str = ""  # "×3", "~ crude .71", "× crude"
    label: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Term:
    """One number of the line that adds up: its name and the number in units of the last printed digit."""

    name: str
    units: int


@dataclass(frozen=True, slots=True)
class Position:
    """A lit word told by its first place only (for reports that hide the training text). Words count from 1."""

    part: int
    word: int
    tone: str
    score: float
    places: int


@dataclass(frozen=True, slots=True)
class Card:
    """A training row in a list of an answer. Where training text is hidden it holds none: no parts, marks or texts."""

    example: int
    id: str | None
    label: str | None
    score: float
    scale: Scale  # the query's, with more places for a weak row
    percentile: str
    hub: int
    parts: tuple[tuple[Piece, ...], ...]
    words: int  # in the whole text
    folded: bool
    lit: int  # so many of the marks, the strongest, are lit
    marks: tuple[Mark, ...]  # strongest first
    positions: tuple[Position, ...]
    strip: Strip
    terms: tuple[Term, ...]  # lit + unlit + special tokens and the like = score; empty without word scores
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of an answer with its two lists."""

    number: int  # from 1
    label: str
    said: str | None
    truth: str | None  # its own label, or the one that was given
    agrees: bool | None  # whether the model said that; None when it is not known
    facts: tuple[tuple[str, str], ...]
    sentence: tuple[Bit, ...]
    notes: tuple[str, ...]
    parts: tuple[tuple[Piece, ...], ...]
    folded: bool
    texts: tuple[str, ...]
    marks: tuple[Mark, ...]
    lit: int
    scale: Scale
    strongest: float  # the word score that the darkest tone stands for
    strongest_own: float  # the same for the query's own words
    toward: tuple[Card, ...]
    away: tuple[Card, ...]

    @property
    def largest(self) -> float:
        """The largest absolute score of a card."""
        return max((abs(card.score) for card in (*self.toward, *self.away)), default=0.0)


@dataclass(frozen=True, slots=True)
class View:
    """A whole answer."""

    method: str
    options: tuple[tuple[str, str], ...]
    run: Mapping[str, Any]
    warnings: tuple[str, ...]
    queries: tuple[Query, ...]
    lists: int
    hidden: bool = False
    disagreeing: int = 0
    heading: str = ""  # stands over a query in the place of "Query 3"
    rows_at: str = ""  # where the page of a training row is: an address that its number completes

    def hub(self, card: Card) -> str:
        """ "in 29 of 60 lists" for a row in several lists, else nothing. A slice of an answer knows no total."""
        if card.hub < 2:
            return ""
        return f"in {card.hub} of {self.lists} lists" if card.hub <= self.lists else f"in {card.hub} lists"

    def lit(self) -> Iterable[Mark]:
        """The lit words of all rows."""
        return (m for q in self.queries for card in (*q.toward, *q.away) for m in card.marks[: card.lit])

    @property
    def repeats(self) -> bool:
        """Whether a lit word stands in several places."""
        return any(len(mark.spans) > 1 for mark in self.lit())

    @property
    def ties(self) -> bool:
        """Whether a lit word meets a synonym."""
        return any(mark.synonym is not None for mark in self.lit())

    @property
    def parts(self) -> bool:
        """Whether a lit word meets another in a part of theirs."""
        return any(mark.via for mark in self.lit())

    @property
    def crossed(self) -> bool:
        """Whether a lit word meets another word of the query, as every word does by some methods."""
        return any(mark.crossed for mark in self.lit())


def view(answer: Answer, *, k: int | None = None, hide_training_text: bool = False) -> View:
    """Decide everything that is shown of an answer; at most `k` rows a list (None: as many as it holds)."""
    answer = clean(answer)
    run = answer.get("run") or {}
    queries = tuple(
        _query(query, number, run, k, hide_training_text) for number, query in enumerate(answer.get("queries") or (), 1)
    )
    return View(
        method=str(answer.get("method", "")),
        options=tuple((key, _value(value)) for key, value in (answer.get("options") or {}).items()),
        run=run,
        warnings=tuple(map(str, run.get("warnings") or ())),
        queries=queries,
        lists=int(answer.get("lists") or len(queries)),
        hidden=hide_training_text,
        disagreeing=sum(query.agrees is False for query in queries),
    )


def clean(value: Any) -> Any:
    """The same value with NUL and lone surrogates, which no HTML or UTF-8 can hold, shown as U+FFFD."""
    if isinstance(value, str):
        return _UNHOLDABLE.sub("\ufffd", value)
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return value if value and isinstance(value[0], int) else [clean(item) for item in value]
    if isinstance(value, Mapping):
        return {key: clean(item) for key, item in value.items()}
    return value


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return str(value)


def _query(query: Answer, number: int, run: Mapping[str, Any], k: int | None, hide: bool) -> Query:
    texts = _texts(query)
    words = [tuple(span) for span in query.get("words") or ()]
    sides = [list(query.get(side) or ())[:k] for side in ("proponents", "opponents")]
    marks = [[light.marks_of(row.get("words") or (), words) for row in side] for side in sides]
    strongest = max((abs(mark.score) for side in marks for row in side for mark in row), default=0.0)
    scale = Scale.of(max((abs(row["score"]) for side in sides for row in side), default=0.0))
    own = light.query_marks(words, ([mark for row in side for mark in row] for side in marks), texts)
    lit = light.count_lit(own)
    strongest_own = max((abs(mark.score) for mark in own), default=0.0)
    parts, folded = _pieces(texts, own[:lit], own[lit:], strongest_own, None)
    toward, away = (
        tuple(
            _card(row, found, run, scale, strongest, texts, words, hide) for row, found in zip(side, here, strict=True)
        )
        for side, here in zip(sides, marks, strict=True)
    )
    truth = true_label(query)
    said = None if query.get("predicted") is None else str(query["predicted"])
    label = short_label(query.get("label"))
    return Query(
        number=number,
        label=label,
        said=said,
        truth=truth,
        agrees=said == truth if truth is not None and said is not None else None,
        facts=facts(query),
        sentence=sentence(query, bool(toward or away), {texts[p][s:e] for s, e, p in words} if hide else None),
        notes=tuple(map(str, query.get("notes") or ())),
        parts=parts,
        folded=folded,
        texts=texts,
        marks=tuple(own),
        lit=lit,
        scale=scale,
        strongest=strongest,
        strongest_own=strongest_own,
        toward=toward,
        away=away,
    )


def _texts(row: Answer) -> tuple[str, ...]:
    first, second = str(row.get("text") or ""), row.get("text_pair")
    return (first,) if second is None else (first, str(second))


def _card(
    row: Answer,
    marks: list[Mark],
    run: Mapping[str, Any],
    scale: Scale,
    strongest: float,
    query: Sequence[str],
    query_words: Sequence[Sequence[int]],
    hide: bool,
) -> Card:
    texts = _texts(row)
    scale = scale.finer(float(row["score"]))
    lit = light.count_lit(marks)
    parts, folded = _pieces(texts, marks[:lit], marks[lit:], strongest, scale, query, query_words)
    label = None if row.get("label") is None else str(row["label"])
    if hide and label not in [str(name) for name in run.get("labels") or ()]:
        label = None  # a label that is no class name is text of the training row
    return Card(
        example=int(row["example"]),
        id=None if row.get("id") is None else str(row["id"]),
        label=label,
        score=float(row["score"]),
        scale=scale,
        percentile="" if row.get("percentile") is None else percentile(float(row["percentile"])),
        hub=int(row.get("hub") or 0),
        parts=() if hide else parts,
        words=sum(map(fold.count_words, texts)),
        folded=folded,
        lit=lit,
        marks=() if hide else tuple(marks),
        positions=tuple(_positions(texts, marks[:lit], strongest)),
        strip=strip(texts, marks[:lit]),
        terms=_terms(row, marks, lit, scale),
        texts=() if hide else texts,
    )


def _pieces(
    texts: Sequence[str],
    lit: Sequence[Mark],
    unlit: Sequence[Mark],
    strongest: float,
    scale: Scale | None,
    query: Sequence[str] = (),
    query_words: Sequence[Sequence[int]] = (),
) -> tuple[tuple[tuple[Piece, ...], ...], bool]:
    """Each part cut into plain, lit and folded pieces; with a scale, gaps say what their words push."""
    folded = sum(map(fold.count_words, texts)) > fold.LIMIT
    parts = []
    for part, text in enumerate(texts):
        found = light.places(lit, part, len(text))
        windows = [fold.Window(0, len(text), True)]
        if folded:
            windows = fold.fold(text, [(place.start, place.end) for place in found if _is_first(place, part)])
        pieces: list[Piece] = []
        for window in windows:
            if window.shown:
                here = [place for place in found if window.start <= place.start < window.end]
                pieces += _shown(text, window, here, part, strongest, query, query_words)
            else:
                score = sum(m.score for m in unlit if m.spans and _inside(m.spans[0], part, window))
                label = f"{window.amount}, {scale(score)}" if scale and scale.units(score) else window.amount
                pieces.append(Piece("gap", text[window.start : window.end], label=label, score=score))
        parts.append(tuple(pieces))
    return tuple(parts), folded


def _is_first(place: light.Place, part: int) -> bool:
    """Whether a mark is first met here; windows and notes stand there, not at each of its nineteen places."""
    return place.mark.spans[0] == (place.start, place.end, part)


def _inside(span: light.Span, part: int, window: fold.Window) -> bool:
    return span[2] == part and window.start <= span[0] < window.end


def _shown(
    text: str,
    window: fold.Window,
    here: Iterable[light.Place],
    part: int,
    strongest: float,
    query: Sequence[str],
    query_words: Sequence[Sequence[int]],
) -> Iterable[Piece]:
    at = window.start
    for place in here:
        if at < place.start:
            yield Piece("text", text[at : place.start])
        note, tone = "", light.tone_class(place.score, strongest)
        if _is_first(place, part):  # told once
            note = note_of(place.mark, query, query_words, tone[1:] in "34")
        yield Piece("lit", text[place.start : place.end], tone, note, score=place.score)
        at = place.end
    if at < window.end:
        yield Piece("text", text[at : window.end])


def note_of(mark: Mark, query: Sequence[str], query_words: Sequence[Sequence[int]], strong: bool = True) -> str:
    """What is written after a lit word: "×3" when places share it, "~ crude .71" when it meets a synonym.

    "##ing" when two different words meet in that part of theirs; "× crude", after a strong word only, when all words
    meet and it pushes most through that one.
    """
    notes = [f"×{len(mark.spans)}"] if len(mark.spans) > 1 else []
    partner = ""
    if mark.partner is not None and (mark.synonym is not None or mark.crossed):
        start, end, part = query_words[mark.partner]
        partner = query[part][start:end]
    if mark.synonym is not None:
        cosine = f"{mark.synonym:.2f}".replace("0.", ".", 1)
        notes.append(" ".join(filter(None, ("~", partner, cosine))))
    elif mark.via:
        notes.append(mark.via)
    elif mark.crossed and partner and strong:
        notes.append(f"× {partner}")
    return " ".join(notes)


def _positions(texts: Sequence[str], lit: Sequence[Mark], strongest: float) -> Iterable[Position]:
    for part, text in enumerate(texts):
        words = fold.units(text)
        for place in light.places(lit, part, len(text)):
            if _is_first(place, part):
                number = sum(word.start <= place.start for word in words)
                tone = light.tone_class(place.score, strongest)
                yield Position(part, number, tone, place.score, len(place.mark.spans))


def _terms(row: Answer, marks: Sequence[Mark], lit: int, scale: Scale) -> tuple[Term, ...]:
    """lit + unlit + special tokens and the like = score, in whole printed digits: the printed line adds up too."""
    score, special = float(row["score"]), float(row.get("special") or 0.0)
    if not row.get("words") and not special:
        return ()
    shown, rest = (sum(mark.score for mark in part) for part in (marks[:lit], marks[lit:]))
    parts = [(f"{lit} lit", shown), (f"{len(marks) - lit} unlit", rest)]
    parts = [part for part in parts if not part[0].startswith("0 ")]
    others = [pair for pair in row.get("words") or () if not pair.get("special")]
    for name, kind in (("other pairs", "rest"), ("whole text", "text")):
        value = sum(pair["score"] for pair in others if pair.get("part") == kind)
        if scale.units(value):
            parts.append((name, value))
    off = score - special - sum(mark.score for mark in marks) - sum(p["score"] for p in others if _apart(p))
    if abs(off) > 0.005 * abs(score):  # the answer's own words do not add up: say so
        parts.append(("not on words", off))
    if special or not parts:
        parts.append(("special tokens", special))
    units = [scale.units(value) for _, value in parts]
    total = scale.units(score)
    largest = max(range(len(parts)), key=lambda at: abs(units[at]))
    units[largest] += total - sum(units)  # where rounding errors show least
    return (*(Term(name, unit) for (name, _), unit in zip(parts, units, strict=True)), Term("score", total))


def _apart(pair: Answer) -> bool:
    """Whether this is no pair of words, but what is summed beside them."""
    return str(pair.get("part", "words")) != "words"
