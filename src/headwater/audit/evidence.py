"""Why a row is suspect, for people: the held-out queries that it hurts most, the words, the nearest rows.

    hurts      the three queries of the lowest TracIn-WE score with the row (normalised by the row's norm), below 0
    words      the pairs of words that carry the first of these scores, the strongest push against the query first
    nearest    the three training rows of the highest cosine between representations, with their labels

What an index does not hold is left out: without token gradients no queries and words, without features no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from headwater.attribution.index import Index
from headwater.attribution.named_rows import words_between
from headwater.attribution.neighbours import nearest_rows
from headwater.remedies.plan import Evidence
from headwater.runs.corpus import Corpus, Label

HURTS = "hurts"
NEAREST = "nearest"
MOST = 3  # queries, words and rows each: a plan has room for ten reasons
_TEXT = 300  # characters of a text that a plan quotes

Columns = Callable[[Int64[np.ndarray, "r"]], Float32[np.ndarray, "queries r"]]


@dataclass(frozen=True)
class HeldOut:
    """Clean, labelled rows that were not trained on, and their numbers in the run's evaluation corpus if they are of
    it (`refs`), by which a plan cites them."""

    corpus: Corpus
    refs: tuple[int | str, ...] | None = None

    @property
    def labels(self) -> list[Label]:
        """The true labels."""
        name = self.corpus.columns.label
        assert name is not None
        found: list[Label] = self.corpus.table.column(name).to_pylist()
        return found

    def take(self, rows: Sequence[int]) -> HeldOut:
        """These of them, in this order."""
        refs = None if self.refs is None else tuple(self.refs[row] for row in rows)
        return HeldOut(self.corpus.take(rows), refs)

    def ref(self, query: int) -> int | str | None:
        """What a plan calls a query; None where its text must do."""
        return None if self.refs is None else self.refs[query]


@dataclass(frozen=True)
class Reasons:
    """Of one row: `evidence` as a plan holds it, and the words alone."""

    evidence: tuple[Evidence, ...] = ()
    words: tuple[str, ...] = ()


def evidence_of(
    rows: Sequence[int],
    corpus: Corpus,
    *,
    index: Index | None = None,
    held_out: HeldOut | None = None,
    scores: Float32[np.ndarray, "queries rows"] | None = None,
    features: Float32[np.ndarray, "rows d"] | None = None,
    among: Int64[np.ndarray, " rows"] | None = None,
) -> dict[int, Reasons]:
    """Reasons for each of `rows` (numbers in `corpus`).

    `index` needs token gradients; `scores` are those of `held_out` with every row, where they are known already
    (`index.scores(..., normalize="train")`). `features` are the representations of all rows. Where both are of a part
    of the rows, `among` names these, ascending, and `rows` are of them.
    """
    asked = np.array(sorted(set(rows)), dtype=np.int64)
    places = asked if among is None else np.searchsorted(among, asked)
    found: dict[int, list[Evidence]] = {int(row): [] for row in asked}
    words: dict[int, tuple[str, ...]] = {}
    if index is not None and held_out is not None and len(asked):
        known = index.scores(held_out.corpus, held_out.labels, normalize="train", show=False)[:, asked] if (
            scores is None
        ) else np.asarray(scores[:, places])  # fmt: skip
        hurt = worst_queries(known)
        for place, row in enumerate(asked):
            found[int(row)] += _queries(held_out, hurt[place], known[:, place])
        for row, pairs in _words(index, held_out, asked, hurt).items():
            found[row] += pairs
            words[row] = tuple(dict.fromkeys(str(pair.train_word) for pair in pairs))
    if features is not None and len(asked):
        near, cosines = nearest_rows(features, places, k=MOST)
        near = near if among is None else among[near]
        for place, row in enumerate(asked):
            found[int(row)] += [_row(corpus, *pair) for pair in zip(near[place], cosines[place], strict=True)]
    return {row: Reasons(tuple(each), words.get(row, ())) for row, each in found.items()}


def worst_queries(scores: Float32[np.ndarray, "queries r"]) -> list[list[int]]:
    """Of each row, the queries that it hurts most: at most three, scores below 0, the lowest first."""
    order = np.argsort(scores, axis=0, kind="stable")[:MOST]
    return [[int(query) for query in column if scores[query, place] < 0] for place, column in enumerate(order.T)]


def _queries(held_out: HeldOut, queries: Sequence[int], scores: Float32[np.ndarray, "queries"]) -> list[Evidence]:
    made = []
    for query in queries:
        example = held_out.corpus[query]
        value = float(scores[query])
        made.append(
            Evidence(
                "query",
                ref=held_out.ref(query),
                text=_short(example.text),
                label=example.label,
                name=HURTS,
                value=value,
            )
        )
    return made


def _words(
    index: Index, held_out: HeldOut, rows: Int64[np.ndarray, "r"], hurt: Sequence[Sequence[int]]
) -> Mapping[int, list[Evidence]]:
    """The words behind each row's lowest score: one pass for each query that is some row's worst."""
    of: dict[int, list[int]] = {}
    for row, queries in zip(rows, hurt, strict=True):
        if queries:
            of.setdefault(queries[0], []).append(int(row))
    asked = sorted(of)
    labels = held_out.labels
    found: dict[int, list[Evidence]] = {}
    told = words_between(
        index, held_out.corpus.take(asked), [labels[query] for query in asked], [of[query] for query in asked]
    ) if asked else {}  # fmt: skip
    for (_, row), pairs in told.items():
        against = sorted((pair for pair in pairs if pair.score < 0 and not pair.special), key=lambda pair: pair.score)
        found[row] = [
            Evidence("word", train_word=pair.train, query_word=pair.query, name=HURTS, value=float(pair.score))
            for pair in against[:MOST]
        ]
    return found


def _row(corpus: Corpus, row: int, cosine: float) -> Evidence:
    example = corpus[int(row)]
    text, label, value = _short(example.text), example.label, round(float(cosine), 6)
    return Evidence("row", ref=int(row), text=text, label=label, name=NEAREST, value=value)


def _short(text: object) -> str:
    told = str(text)
    return told if len(told) <= _TEXT else told[: _TEXT - 1] + "…"
