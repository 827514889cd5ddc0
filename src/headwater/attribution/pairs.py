"""Contributions of tokens folded to pairs of words: by token where places share a posting, by place where they do not.

TracIn-WE and its kin match tokens, and a row's posting holds all places of one. Methods over layer gradients match
nothing: every place of the row meets every place of the query, and both are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from headwater.attribution.attributions import WordPair
from headwater.attribution.words import Texts, Word, Words
from headwater.methods import Contributions
from headwater.runs import Encoding

KEPT = 100  # pairs of words of a row, where every word meets every other
KEPT_SPECIAL = 12  # the same of special tokens

At = Int64[np.ndarray, "c"]
"""Which contributions."""


def by_token(
    contributions: Contributions,
    mine: At,
    query: Texts,
    row: Texts,
    token_text: Mapping[int, str],
    special: Collection[int],
) -> list[WordPair]:
    """Fold contributions whose train tokens stand for all their places in the row."""
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
    return [
        _pair(contributions, group, key, query.words, row.words, places, token_text) for key, group in groups.items()
    ]


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
    cosine = float(contributions.cosines[list(group)].max())
    return WordPair(
        train=ours,
        query=theirs,
        score=float(contributions.values[list(group)].sum()),
        places=max(shared, 1),
        special=not train,
        cosine=None if same or np.isnan(cosine) else cosine,
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


def by_place(
    contributions: Contributions,
    mine: At,
    query: Texts,
    row: Texts,
    token_text: Mapping[int, str],
    special: Collection[int],
) -> list[WordPair]:
    """Fold contributions of places to pairs of a word of the row and a word of the query; keep the strongest.

    A token that is special, or of no word (a chat template's), stands by itself, and its pairs are special. The weak
    pairs, and the weak ones of special tokens, add up to a pair of part "rest" each.
    """
    ours = _owners(contributions.train_tokens[mine], contributions.train_places[mine], row.words, special)
    theirs = _owners(contributions.query_tokens[mine], contributions.places[mine], query.words, special)
    lowest, reach = theirs.min(initial=0), int(np.ptp(theirs)) + 1 if len(theirs) else 1
    found, slots = np.unique(ours * reach + (theirs - lowest), return_inverse=True)  # one number a pair sorts fast
    ours, theirs = found // reach, found % reach + lowest
    scores = np.bincount(slots, weights=contributions.values[mine], minlength=len(found))
    pairs = []
    for alone, most in ((False, KEPT), (True, KEPT_SPECIAL)):
        at = np.flatnonzero(((ours < 0) | (theirs < 0)) == alone)
        at = at[np.lexsort((ours[at], theirs[at], -np.abs(scores[at])))]
        for one, other, score in zip(*(column[at[:most]].tolist() for column in (ours, theirs, scores)), strict=True):
            (train, train_spans), (asked, query_spans) = (
                _written(owner, words, token_text) for owner, words in ((one, row.words), (other, query.words))
            )
            pairs.append(WordPair(train, asked, score, 1, alone, None, None, train_spans, query_spans))
        pairs.append(folded("rest", scores[at[most:]].tolist(), special=alone))
    return [pair for pair in pairs if pair.score != 0]


def _owners(
    tokens: NDArray[np.int64], places: NDArray[np.int64], words: Words, special: Collection[int]
) -> NDArray[np.int64]:
    """Return the word of each place; for a token that stands by itself, -1 - token."""
    of_place = np.array([-1 if word is None else word for word in (*words.of_place, None)], dtype=np.int64)
    found = of_place[np.minimum(places, len(of_place) - 1)]
    alone = (found < 0) | np.isin(tokens, list(special))
    return np.where(alone, -1 - tokens, found)


def _written(owner: int, words: Words, token_text: Mapping[int, str]) -> tuple[str, tuple[Word, ...]]:
    if owner < 0:
        return token_text[-1 - owner], ()
    return words.surface(owner), (words.words[owner],)


def folded(part: Literal["text", "rest"], scores: Sequence[float], *, special: bool = False) -> WordPair:
    """Make one pair of what belongs to no pair of words."""
    return WordPair("", "", sum(scores, 0.0), 1, special, None, None, (), (), part)
