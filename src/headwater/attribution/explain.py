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
from headwater.attribution.words import Words, split_words
from headwater.methods import Contributions
from headwater.runs import Encoding, Example


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

    On the query's side a word is known by its place. On the row's side a token's places share one posting: tokens
    with the same places' words fold into one, so "winn" + "##ing" of one word do, and "##ing" shared by two words
    stands by itself. A special token is one wherever it stands, also where a text spells it out. Pairs that score
    nothing are left out.
    """
    mine = np.flatnonzero(contributions.rows == row.example.row)
    places = _places_by_token(row.encoding)
    query_places = _places_by_token(query.encoding)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for at in mine:
        token, query_token = int(contributions.train_tokens[at]), int(contributions.query_tokens[at])
        train = () if token in special else _train_words(token, places, row.words)
        place = int(contributions.places[at])
        if place < 0:  # a decoder's lookup: any place of the token says which word it is
            place = next(iter(query_places.get(query_token, [-1])))
        asked = query.words.of_place[place] if place >= 0 and query_token not in special else None
        # One written word takes all its tokens; a token of several words, or of none, stands by itself.
        folds = len({row.words.surface(word).casefold() for word in train}) == 1
        whole = (train, None if folds else token)
        other = (asked, None if asked is not None else query_token)
        groups.setdefault((whole, other, token == query_token), []).append(int(at))
    pairs = [
        _pair(contributions, group, key, query.words, row.words, places, token_text) for key, group in groups.items()
    ]
    pairs = [pair for pair in pairs if pair.score != 0]
    return tuple(sorted(pairs, key=lambda pair: (-abs(pair.score), pair.query_spans, pair.train_spans, pair.train)))


def _pair(
    contributions: Contributions,
    group: Sequence[int],
    key: tuple[Any, ...],
    query: Words,
    row: Words,
    places: Mapping[int, list[int]],
    token_text: Mapping[int, str],
) -> WordPair:
    """Make one word pair of the contributions of a group."""
    (train, token), (asked, query_token), same = key
    tokens = {int(contributions.train_tokens[at]) for at in group}
    shared = max(len(places.get(one, ())) for one in tokens)
    ours = row.surface(train[0]) if token is None else token_text[token]
    theirs = query.surface(asked) if query_token is None else token_text[query_token]
    return WordPair(
        train=ours,
        query=theirs,
        score=float(contributions.values[list(group)].sum()),
        places=max(shared, 1),
        special=not train,
        cosine=None if same else float(contributions.cosines[list(group)].max()),
        via=token_text[min(tokens)] if same and ours.casefold() != theirs.casefold() else None,
        train_spans=tuple(row.words[word] for word in train),
        query_spans=() if asked is None else (query.words[asked],),
    )


def _places_by_token(encoding: Encoding) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for place, token in enumerate(encoding.looked_up):
        places.setdefault(token, []).append(place)
    return places


def _train_words(token: int, places: Mapping[int, list[int]], words: Words) -> tuple[int, ...]:
    """Return the words that a token of a row belongs to; none for a special token."""
    found = {words.of_place[place] for place in places.get(token, ())}
    return tuple(sorted(word for word in found if word is not None))


def hubs(lists: Sequence[Sequence[int]]) -> dict[int, int]:
    """Count in how many of these lists each row stands."""
    counts: dict[int, int] = {}
    for rows in lists:
        for row in set(rows):
            counts[row] = counts.get(row, 0) + 1
    return counts
