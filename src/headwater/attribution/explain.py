"""From scores to an answer: the rows at both ends, taken apart into words.

The ends of the float32 scores are found with a margin for rounding, scored again in float64 in a fixed order, and
sorted; equal scores go to the lower row number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from headwater.attribution.attributions import WordPair
from headwater.attribution.pairs import by_place, by_token, folded
from headwater.attribution.words import Texts
from headwater.methods import NO_TOKEN, Contributions


def ends(
    scores: Float32[np.ndarray, "rows"], allowed: Bool[np.ndarray, "rows"], k: int, margin: float
) -> NDArray[np.int64]:
    """Return the rows that may be among the k highest or the k lowest, given an error of `margin` in each score.

    A row that shares nothing with the query scores 0 exactly and stands on neither side.
    """
    rows = np.flatnonzero(allowed & (scores != 0))
    if len(rows) <= 2 * k:
        return rows
    values = scores[rows].astype(np.float64)
    highest = np.partition(values, len(values) - k)[len(values) - k]
    lowest = np.partition(values, k - 1)[k - 1]
    near: NDArray[np.int64] = rows[(values >= highest - 2 * margin) | (values <= lowest + 2 * margin)]
    return near


@dataclass(frozen=True)
class Sides:
    """The rows to show, strongest first, with their scores in float64."""

    proponents: list[tuple[int, float]]
    opponents: list[tuple[int, float]]


def both_sides(rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Sides:
    """Choose the k highest above zero and the k lowest below zero; ties go to the lower row number."""
    down = np.lexsort((rows, -scores))
    up = np.lexsort((rows, scores))
    return Sides(
        [(int(rows[at]), float(scores[at])) for at in down[:k] if scores[at] > 0],
        [(int(rows[at]), float(scores[at])) for at in up[:k] if scores[at] < 0],
    )


class TokenNames(dict[int, str]):
    """How a token is written, looked up when it is needed; for those that stand by themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> str:
        text = str(self._tokenizer.decode([token])).strip()
        if "\ufffd" in text:  # a few bytes of a character
            text = str(self._tokenizer.convert_ids_to_tokens(token))
        return self.setdefault(token, text or "␣")


def word_pairs(
    contributions: Contributions,
    query: Texts,
    row: Texts,
    token_text: Mapping[int, str],
    special: Collection[int] = (),
) -> tuple[WordPair, ...]:
    """Fold the contributions of one row from tokens to words, strongest first; their scores add up to the row's.

    On the query's side a word is known by its place, and so it is on the row's where the method knows it. Else a
    token's places share one posting: tokens with the same places' words fold into one, so "winn" + "##ing" of one word
    do, and "##ing" shared by two words stands by itself. A special token is one wherever it stands, also where a text
    spells it out. Pairs that score nothing are left out. Where every word meets every other, the weak pairs are folded
    into one of part "rest" (and one of special tokens); what no word has is one of part "text"; both stand last. There
    are no pairs at all where nothing but the text as a whole has a score.
    """
    mine = np.flatnonzero(contributions.rows == row.example.row)
    whole = (contributions.train_tokens[mine] == NO_TOKEN) | (contributions.query_tokens[mine] == NO_TOKEN)
    placed = (contributions.train_places[mine] >= 0) & (contributions.places[mine] >= 0) & ~whole
    matched = ~np.isnan(contributions.cosines[mine])
    pairs = by_token(contributions, mine[~whole & (matched | ~placed)], query, row, token_text, special)
    pairs += by_place(contributions, mine[placed & ~matched], query, row, token_text, special)
    if not pairs:
        return ()
    pairs.append(folded("text", contributions.values[mine[whole]].tolist()))
    pairs = [pair for pair in pairs if pair.score != 0]
    return tuple(sorted(pairs, key=_order))


def _order(pair: WordPair) -> tuple[Any, ...]:
    last = ("words", "rest", "text").index(pair.part)
    return last, -abs(pair.score), pair.query_spans, pair.train_spans, pair.train, pair.query


def hubs(lists: Sequence[Sequence[int]]) -> dict[int, int]:
    """Count in how many of these lists each row stands."""
    counts: dict[int, int] = {}
    for rows in lists:
        for row in set(rows):
            counts[row] = counts.get(row, 0) + 1
    return counts
