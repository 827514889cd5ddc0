"""The answer: for each query the rows that pushed toward its label, those that pushed away, and the words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd

from headwater.attribution.queries import Query
from headwater.attribution.words import Word, Words
from headwater.runs import Example
from headwater.store import Touched


@dataclass(frozen=True)
class WordPair:
    """One word of a training row against one place of a word in the query.

    A posting holds all places of a token in its row: `places` says how many share this score. Methods over layer
    gradients know every place, and let every word meet every other.
    """

    train: str
    query: str
    score: float
    places: int
    special: bool
    cosine: float | None
    """Of a pair of synonyms; None where both sides hold the same token, or where tokens are not matched."""
    via: str | None
    """The token that two different words share ("winning" and "calling" meet in "##ing"); None for equal words."""
    train_spans: tuple[Word, ...]
    query_spans: tuple[Word, ...]
    part: Literal["words", "text", "rest"] = "words"
    """text: what the text as a whole scores beside its words (pooled layers, what storing rounded); rest: the sum of
    pairs too weak to be listed. Neither has words or spans."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; spans are [start, end, part]."""
        return {
            "part": self.part,
            "train": self.train,
            "query": self.query,
            "score": self.score,
            "places": self.places,
            "special": self.special,
            "synonym": self.cosine,
            "via": self.via,
            "train_spans": [[word.start, word.end, word.part] for word in self.train_spans],
            "query_spans": [[word.start, word.end, word.part] for word in self.query_spans],
        }


@dataclass(frozen=True)
class Influence:
    """One training row's part in an answer. The scores of `words` add up to `score`, where there are any."""

    example: Example
    score: float
    percentile: float | None
    """Share of all rows, in per cent, whose score with this query is not larger; None where a pruned search was told to
    leave rows out."""
    words: tuple[WordPair, ...]
    """Strongest first. Empty where the row's score is of its text as a whole."""
    hub: int = 1
    """In how many of this answer's lists the row stands."""

    @property
    def special(self) -> float:
        """Return the part of the score that runs through special tokens."""
        return sum(pair.score for pair in self.words if pair.special)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        example = self.example
        return {
            "example": example.row,
            "id": example.id,
            "score": self.score,
            "percentile": self.percentile,
            "text": example.text,
            "text_pair": example.text_pair,
            "label": example.label,
            "hub": self.hub,
            "words": [pair.to_dict() for pair in self.words],
            "special": self.special,
        }


@dataclass(frozen=True)
class Attribution:
    """Why one query got its prediction."""

    query: Query
    words: Words
    proponents: tuple[Influence, ...]
    opponents: tuple[Influence, ...]
    push: float | None
    """Sum of all positive scores, over all rows: the whole push toward the label; None after a pruned search."""
    notes: tuple[str, ...] = ()
    touched: Touched | None = None
    """What a pruned search read; None after a full scan."""

    def _repr_html_(self) -> str:
        return Attributions((self,), {})._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        query = self.query
        return {
            "text": query.example.text,
            "text_pair": query.example.text_pair,
            "label": query.label,
            "label_source": "given" if query.given else "predicted",
            "true_label": None if query.example.label is None else str(query.example.label),
            "predicted": query.predicted,
            "probability": query.probability,
            "loss": query.loss,
            "words": [[word.start, word.end, word.part] for word in self.words.words],
            "notes": list(self.notes),
            "summary": self._summary(),
            "touched": None if self.touched is None else self.touched.to_dict(),
            "proponents": [influence.to_dict() for influence in self.proponents],
            "opponents": [influence.to_dict() for influence in self.opponents],
        }

    def _summary(self) -> dict[str, Any]:
        """How much of the push toward the label the shown proponents hold, and which query word carries it."""
        held = sum(influence.score for influence in self.proponents)
        carried: dict[str, float] = {}
        for influence in self.proponents:
            for pair in influence.words:
                if not pair.special and pair.part == "words":
                    carried[pair.query] = carried.get(pair.query, 0.0) + pair.score
        word = max(carried, key=lambda name: carried[name], default=None)
        return {
            "push": self.push,
            "top_rows": len(self.proponents),
            "top_share": None if self.push is None else held / self.push if self.push else 0.0,
            "word": word,
            "word_share": carried[word] / held if word is not None and held else 0.0,
        }


@dataclass(frozen=True)
class Attributions(Sequence[Attribution]):
    """One `Attribution` a query, in the order asked; `facts` say by which method and of which run."""

    items: tuple[Attribution, ...]
    facts: Mapping[str, Any] = field(repr=False)

    @overload
    def __getitem__(self, at: int) -> Attribution: ...
    @overload
    def __getitem__(self, at: slice) -> Attributions: ...
    def __getitem__(self, at: int | slice) -> Attribution | Attributions:
        return Attributions(self.items[at], self.facts) if isinstance(at, slice) else self.items[at]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.items)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as `--json` prints it."""
        return {**self.facts, "queries": [item.to_dict() for item in self.items]}

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each training row of each answer, proponents first, each side strongest first."""
        rows = [
            {
                "query": number,
                "query_text": item.query.example.text,
                "query_label": item.query.label,
                "predicted": item.query.predicted,
                "side": side,
                "rank": rank,
                "example": influence.example.row,
                "id": influence.example.id,
                "text": influence.example.text,
                "text_pair": influence.example.text_pair,
                "label": influence.example.label,
                "score": influence.score,
                "percentile": influence.percentile,
                "words": [(pair.train, pair.query, pair.score) for pair in influence.words if pair.part == "words"],
            }
            for number, item in enumerate(self.items)
            for side, influences in (("proponent", item.proponents), ("opponent", item.opponents))
            for rank, influence in enumerate(influences, start=1)
        ]
        return pd.DataFrame(rows)

    def save_html(
        self,
        path: str | Path,
        *,
        title: str | None = None,
        k: int | None = None,
        hide_training_text: bool = False,
        overview: Mapping[str, Any] | None = None,
        command: str | None = None,
    ) -> None:
        """Write a self-contained page: all rows of the answer, or `k` a side.

        `hide_training_text` shows row numbers and scores, and no training text; `overview` is what the model says about
        all texts (see `attribution.overview`); `command` is named as what made it.
        """
        from headwater.attribution.render import render_page
        from headwater.files import write_text

        page = render_page(
            self.to_dict(),
            title=title or "Why?",
            k=k,
            hide_training_text=hide_training_text,
            overview=overview,
            command=command,
        )
        write_text(Path(path), page)

    def _repr_html_(self) -> str:
        from headwater.attribution.render import render_fragment

        return render_fragment(self.to_dict())
