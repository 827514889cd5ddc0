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
_ROWS = 40  # postings of so many rows a row wanted are read, of each of the query's tokens: 20 to 40 were measured
_SMALL = 64 << 20  # bytes that a full scan reads in ten milliseconds or so: below, it stays, for it knows more
_EXTRA = 3  # a scattered vector costs as much as so many in a row


def can_prune(matched: Matched) -> bool:
    """Say whether bounds on the scores are known from the norms alone."""
    return not matched.synonyms and not matched.options.synonyms


def prune(matched: Matched, query: int, k: int, allowed: Bool[np.ndarray, "rows"]) -> Top:
    """Find the rows that may be among a query's k highest or k lowest scores (see `store.pruned`)."""
    scale = None if matched.options.normalize is None else 1 / train_norms(matched)
    lists = [_lists(matched, part, query) for part in matched.parts]
    return search_pruned([each for each in lists if len(each.tokens)], k, allowed, scale)


def is_cheaper(matched: Matched, k: int) -> bool:
    """Predict which way reads fewer bytes for all queries together: pruned search (True), or the full scan.

    Where that is little anyway, the full scan stays.

    A full scan reads a token's vectors once for all queries. Pruned search reads, for each query, all row numbers and
    norms of its tokens, and the vectors of some rows.
    """
    full = pruned = 0
    for part in matched.parts:
        asked = np.diff(part.queries.offsets)
        for segment in part.store.segments(part.checkpoint):
            stored = segment.postings
            counts = _counts(part.queries, stored)
            size = vector_bytes(stored)
            full += int(counts.sum()) * size
            pruned += int((counts * asked).sum()) * (stored.rows.itemsize + stored.norms.itemsize)
            share = (segment.rows.stop - segment.rows.start) / part.store.manifest.rows
            read = np.minimum(counts, _ROWS * k * share)  # of each list, by each query
            pruned += int((read * asked).sum()) * size * _EXTRA
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
