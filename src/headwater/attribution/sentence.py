"""The one computed sentence of an answer, and the facts beside its query.

"Said ham (0.93). Ten rows hold 31% of the push toward ham; free carries 41% of theirs."
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headwater.attribution.numerals import number_word, percent, probability


@dataclass(frozen=True, slots=True)
class Bit:
    """A stretch of a sentence: plain, a label, a word of a text, or a number."""

    text: str
    kind: Literal["plain", "label", "word", "number"] = "plain"


_LABEL = 60  # letters of a label that are shown beside other things; a completion is shown whole as a text


def short_label(label: Any) -> str:
    """A label in one line; of a long one the beginning."""
    text = " ".join(str(label).split()) or str(label)
    return text if len(text) <= _LABEL else text[: _LABEL - 1].rstrip() + "…"


def sentence(query: Mapping[str, Any], rows: bool, known: set[str] | None = None) -> tuple[Bit, ...]:
    """The sentence in bits. `rows`: whether any row is listed. `known`: the only words that it may name."""
    bits = [*_said(query)]
    if not rows:
        return (*bits, Bit("No training row pushed it either way."))
    summary = query.get("summary") or {}
    share, count = summary.get("top_share"), int(summary.get("top_rows") or 0)
    if share is not None and count:
        bits += [
            Bit(f"{number_word(count).capitalize()} row{'s hold' if count != 1 else ' holds'} "),
            Bit(percent(share), "number"),
            Bit(" of the push toward "),
            Bit(short_label(query.get("label")), "label"),
        ]
        word, part = summary.get("word"), summary.get("word_share")
        if word and part is not None and part <= 1 and (known is None or word in known):
            theirs = "theirs" if count != 1 else "its score"
            bits += [
                Bit("; "),
                Bit(str(word), "word"),
                Bit(" carries "),
                Bit(percent(part), "number"),
                Bit(f" of {theirs}"),
            ]
        bits.append(Bit("."))
    return tuple(bits)


def _said(query: Mapping[str, Any]) -> list[Bit]:
    said = query.get("predicted")
    if said is None:
        return []
    bits = [Bit("Said "), Bit(short_label(said), "label")]
    if query.get("probability") is not None:
        bits += [Bit(" ("), Bit(probability(query["probability"]), "number"), Bit(")")]
    truth = true_label(query)
    if truth is not None and truth != str(said):
        bits += [Bit("; labelled "), Bit(short_label(truth), "label")]
    return [*bits, Bit(". ")]


def true_label(query: Mapping[str, Any]) -> str | None:
    """The query's own label, or else the one that was given; None where neither is known."""
    if query.get("true_label") is not None:
        return str(query["true_label"])
    return str(query.get("label")) if query.get("label_source") == "given" else None


def plain(bits: tuple[Bit, ...]) -> str:
    """The sentence as plain text."""
    return "".join(bit.text for bit in bits)


def facts(query: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(name, value) pairs beside the query: what it said, what was given, probability, loss."""
    found = []
    if query.get("predicted") is not None:
        found.append(("said", short_label(query["predicted"])))
    if query.get("probability") is not None:
        found.append(("probability", probability(query["probability"])))
    if query.get("label_source") == "given":
        found.append(("given label", short_label(query.get("label"))))
    elif query.get("true_label") is not None:
        found.append(("true label", short_label(query["true_label"])))
    if query.get("loss") is not None:
        found.append(("loss", f"{query['loss']:.3g}"))
    return tuple(found)
