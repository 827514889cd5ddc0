"""An overview as it is drawn: its figures, and the matrix of labels where it fits on a page.

The input is the dict of `Overview.to_dict()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headwater.attribution.numerals import plural

MOST_LABELS = 12  # of a matrix; with more labels the pairs that are taken for each other most are listed
MOST_PAIRS = 12


@dataclass(frozen=True, slots=True)
class Cell:
    """How often one label was taken for another (`wrong`), for itself (`diagonal`), or never (`none`)."""

    count: int
    share: float  # of the largest off the diagonal; on it 0: only mistakes are shaded
    kind: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A label that was taken for another."""

    true: str
    said: str
    count: int


@dataclass(frozen=True, slots=True)
class OverviewView:
    """An overview, ready to draw."""

    name: str
    rows: int
    loss: float
    perplexity: float | None
    accuracy: float | None
    wrong: int | None
    sentence: str
    labels: tuple[str, ...]
    table: tuple[tuple[Cell, ...], ...]  # empty where there are too many labels
    confused: tuple[Pair, ...]  # most often first


def overview_view(overview: Mapping[str, Any]) -> OverviewView:
    """Lay an overview out."""
    labels = tuple(overview["labels"] or ())
    confusion = overview["confusion"] or []
    pairs = [
        Pair(labels[true], labels[said], count)
        for true, row in enumerate(confusion)
        for said, count in enumerate(row)
        if count and true != said
    ]
    pairs.sort(key=lambda pair: -pair.count)
    most = pairs[0].count if pairs else 1
    return OverviewView(
        name=overview["name"],
        rows=overview["rows"],
        loss=overview["loss"],
        perplexity=overview["perplexity"],
        accuracy=overview["accuracy"],
        wrong=overview["wrong"],
        sentence=_sentence(overview),
        labels=labels,
        table=tuple(
            tuple(_cell(count, most, true == said) for said, count in enumerate(row))
            for true, row in enumerate(confusion)
        )
        if len(labels) <= MOST_LABELS
        else (),
        confused=tuple(pairs[:MOST_PAIRS]),
    )


def _cell(count: int, most: int, same: bool) -> Cell:
    if same:
        return Cell(count, 0.0, "diagonal")
    return Cell(count, count / most, "wrong" if count else "none")


def _sentence(overview: Mapping[str, Any]) -> str:
    """Say which rows are explained below."""
    shown, wrong = len(overview["explained"]), overview["wrong"]
    if not shown:
        return "No prediction is wrong: there is nothing to explain."
    if wrong is None or overview["which"] == "all":
        return f"Explained below: {plural(shown, 'row')} of {overview['rows']:,}, those of the highest loss first."
    if shown == wrong:
        all_of_them = "the wrong prediction" if wrong == 1 else f"all {wrong:,} wrong predictions"
        return f"Explained below: {all_of_them}, those of the highest loss first."
    return f"Explained below: {shown:,} of {wrong:,} wrong predictions, those of the highest loss first."
