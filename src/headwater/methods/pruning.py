"""TracIn-WE's strongest rows without reading most of what is stored: `store.pruned` over the parts of a question.

Under `normalize` a score is divided by the row's own norm, which is known. Synonyms need every row's tokens to be
matched: there the full scan stays.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from headwater.methods.parts import TokenPart
from headwater.methods.tracin_we import Matched, train_norms, words_to_cut
from headwater.store import QueryLists, Top, search_pruned
from headwater.store.postings import Postings
from headwater.store.touched import vector_bytes

_SLACK = 1e-6  # of the places' norms: a token's places may cancel, and then what is left is known less precisely
_ROWS = 20  # postings of so many rows a row wanted are read, of each of the query's tokens: 10 to 40 were measured
_SMALL = 64 << 20  # cost of a full scan that takes two milliseconds or so: below, it stays, for it knows more

# What a search costs, in bytes that a full scan reads in the same time (measured on one core).
_LISTED = 128  # a posting's row number and norm, looked through a few times
_ROW = 512  # a row of the corpus: its bounds
_CALLS = 2 << 20  # a segment, in all rounds together
_SCATTERED = 12  # a vector somewhere else, in its own bytes
_MOST = 1 / 12  # of the vectors: as many, scattered, cost as much as all of them in order


def can_prune(matched: Matched) -> bool:
    """Say whether bounds on the scores are known from the norms alone."""
    return not matched.synonyms and not matched.options.synonyms


def prune(matched: Matched, query: int, k: int, allowed: Bool[np.ndarray, "rows"], *, persist: bool = True) -> Top:
    """Find the rows that may be among a query's k highest or k lowest scores (see `store.pruned`).

    Without `persist` it raises LooseBoundsError when a full scan turns out to be cheaper.
    """
    scale = None if matched.options.normalize is None else 1 / train_norms(matched)
    lists = [_lists(matched, part, query) for part in matched.parts]
    return search_pruned([each for each in lists if len(each.tokens)], k, allowed, scale, 1.0 if persist else _MOST)


def is_cheaper(matched: Matched, k: int) -> bool:
    """Predict which way costs less for all queries together: pruned search (True), or the full scan.

    Where that costs little anyway, the full scan stays.

    A full scan reads a token's vectors once for all queries, and multiplies each with every query that asks for it,
    which takes as long as reading a byte for each number. Pruned search reads, for each query, all row numbers and
    norms of its tokens, and the vectors of some rows.
    """
    full = pruned = 0
    for part in matched.parts:
        asked = np.diff(part.queries.offsets)
        for segment in part.store.segments(part.checkpoint):
            stored = segment.postings
            counts = _counts(part.queries, stored)
            size = vector_bytes(stored)
            full += int(counts.sum()) * size + int((counts * asked).sum()) * stored.dimension
            share = (segment.rows.stop - segment.rows.start) / part.store.manifest.rows
            read = np.minimum(counts, _ROWS * k * share)  # of each list, by each query
            pruned += int((counts * asked).sum()) * _LISTED + int((read * asked).sum()) * size * _SCATTERED
            pruned += matched.queries * ((segment.rows.stop - segment.rows.start) * _ROW + _CALLS)
    return full > _SMALL and pruned < full


def _counts(asked: Postings, stored: Postings) -> NDArray[np.int64]:
    """Return how many postings a segment has of each token that is asked for."""
    if len(stored.tokens) == 0:
        return np.zeros(len(asked.tokens), dtype=np.int64)
    at = np.minimum(np.searchsorted(stored.tokens, asked.tokens), len(stored.tokens) - 1)
    counts: NDArray[np.int64] = np.where(stored.tokens[at] == asked.tokens, np.diff(stored.offsets)[at], 0)
    return counts


def _lists(matched: Matched, part: TokenPart, query: int) -> QueryLists:
    """Fold a query's places in float64, for the tokens that the options keep."""
    tokens = part.queries.token_of()[part.queries.rows == query]  # ascending
    at = (part.places.rows == query).nonzero().squeeze(1)
    of = part.places.tokens[at].cpu().numpy()
    kept = np.isin(of, tokens)
    pushed = part.places.gradients[at].cpu().double()[torch.from_numpy(kept)] * part.weight
    into = torch.from_numpy(np.searchsorted(tokens, of[kept]))
    vectors = torch.zeros((len(tokens), pushed.shape[1]), dtype=torch.float64).index_add_(0, into, pushed)
    norms = torch.linalg.vector_norm(vectors, dim=1).numpy()
    norms += _SLACK * np.bincount(into, torch.linalg.vector_norm(pushed, dim=1), minlength=len(tokens))
    segments = tuple(part.store.segments(part.checkpoint))
    return QueryLists(segments, tokens, vectors, norms, words_to_cut(part, matched.options))
