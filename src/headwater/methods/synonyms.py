"""Pairs of different tokens that mean the same (Syn of TracIn-WE): by embedding cosine, one-to-one in every row.

The paper pairs words by embedding similarity with a one-to-one matching; its details are not public. Ours: a pair
(w of the query, w' of the row) counts when the cosine of their embeddings is at least `threshold`; pairs are taken
greedily from the highest cosine down, identical tokens (cosine 1) first, and a token that is taken on either side is
taken for that row. Special tokens never pair.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from headwater.store import Postings, Segment, keep_mask

_COLUMNS = 1 << 14  # vocabulary rows compared at a time, to bound memory


@dataclass(frozen=True)
class Synonym:
    """A token of a query and another of the vocabulary whose embeddings are alike."""

    query_token: int
    train_token: int
    cosine: float


def find_synonyms(
    embeddings: Float32[Tensor, "v d"],
    tokens: Collection[int],
    among: Collection[int],
    *,
    threshold: float,
    special: Collection[int] = (),
) -> list[Synonym]:
    """Find the synonyms of `tokens` `among` others, by descending cosine, ties by token numbers.

    Cosines are rounded to 6 decimals: their last bits depend on what else is asked, and must not decide a matching.
    """
    asked, others = (torch.tensor(sorted(set(ids) - set(special)), dtype=torch.long) for ids in (tokens, among))
    unit = _unit(embeddings[asked])
    found: list[Synonym] = []
    for start in range(0, len(others), _COLUMNS):
        columns = others[start : start + _COLUMNS]
        cosines = (unit @ _unit(embeddings[columns]).T).round(decimals=6)
        for row, column in (cosines >= threshold).nonzero().tolist():
            query_token, train_token = int(asked[row]), int(columns[column])
            if query_token != train_token:
                found.append(Synonym(query_token, train_token, round(float(cosines[row, column]), 6)))
    return sorted(found, key=lambda pair: (-pair.cosine, pair.query_token, pair.train_token))


def _unit(vectors: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def join_synonyms(
    scores: Float32[np.ndarray, "queries rows"],
    asked: Postings,
    segment: Segment,
    weight: float,
    synonyms: Sequence[Synonym],
    *,
    max_words: int | None = None,
) -> None:
    """Add the synonym pairs of one segment to `scores`, in place; identical tokens are `store.join`'s."""
    stored = segment.postings
    block = scores[:, segment.rows.start : segment.rows.stop]
    kept = keep_mask(stored.ranks, special_tokens=True, max_words=max_words)
    places: dict[int, NDArray[np.intp]] = {}

    def places_of(token: int) -> NDArray[np.intp]:
        if token not in places:
            span = stored.span(token)
            within = np.arange(span.start, span.stop)
            places[token] = within if kept is None else within[kept[span]]
        return places[token]

    token_of = asked.token_of()
    here = set(stored.tokens.tolist())
    synonyms = [pair for pair in synonyms if pair.train_token in here]
    for query in np.unique(asked.rows):
        mine = {int(token_of[at]): int(at) for at in np.flatnonzero(asked.rows == query)}
        alike = [pair for pair in synonyms if pair.query_token in mine]
        if not alike:
            continue
        taken = _Taken(block.shape[1])
        for token in mine:
            taken.mark(token, token, stored.rows[places_of(token)].astype(np.intp))
        for pair in alike:
            at = places_of(pair.train_token)
            rows = stored.rows[at].astype(np.intp)
            free = taken.free(pair.query_token, pair.train_token, rows)
            if not free.any():
                continue
            vector = asked.gradients(np.array([mine[pair.query_token]]))[0]
            block[query, rows[free]] += (stored.gradients(at[free]) @ vector).numpy() * np.float32(weight)
            taken.mark(pair.query_token, pair.train_token, rows[free])


class _Taken:
    """Which tokens of either side are already paired, row by row."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._sides: tuple[dict[int, NDArray[np.bool_]], dict[int, NDArray[np.bool_]]] = ({}, {})

    def _flags(self, side: int, token: int) -> NDArray[np.bool_]:
        return self._sides[side].setdefault(token, np.zeros(self._rows, dtype=np.bool_))

    def free(self, query_token: int, train_token: int, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        return ~(self._flags(0, query_token)[rows] | self._flags(1, train_token)[rows])

    def mark(self, query_token: int, train_token: int, rows: NDArray[np.intp]) -> None:
        self._flags(0, query_token)[rows] = True
        self._flags(1, train_token)[rows] = True


def pair_tokens(
    query_tokens: Collection[int], row_tokens: Collection[int], synonyms: Sequence[Synonym]
) -> Mapping[tuple[int, int], float]:
    """Pair the tokens of a query with those of a row, {(query token, row token): cosine}, as `join_synonyms` does."""
    pairs = {(token, token): 1.0 for token in query_tokens if token in row_tokens}
    left = set(query_tokens) - {token for token, _ in pairs}
    right = set(row_tokens) - {token for _, token in pairs}
    for pair in synonyms:
        if pair.query_token in left and pair.train_token in right:
            pairs[pair.query_token, pair.train_token] = pair.cosine
            left.discard(pair.query_token)
            right.discard(pair.train_token)
    return pairs
