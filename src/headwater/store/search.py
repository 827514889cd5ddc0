"""Search: the join of a batch of queries with the postings of the training rows, token by token.

    scores[q, x] += weight * sum over shared tokens w of < q_w , x_w >

Tokens with many postings are one matrix product each; the many rare ones are gathered into pairs and done at once,
because a call a token would cost more than its arithmetic. Products and sums are float32; the few rows that are
shown are scored again in float64 (see `attribution.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray

from headwater.store.halves import powers
from headwater.store.postings import Postings
from headwater.store.store import Segment, keep_mask

_FEW = 64  # pairs of a token (queries x rows) below which gathering is cheaper than a product of its own
_MANY = 64  # queries from which on several threads help
_PAIRS = 1 << 16  # gathered pairs done at a time, to bound memory


@contextmanager
def threads_for(queries: int) -> Iterator[None]:
    """Within this context torch uses one thread where there are few queries.

    Their products are so small that waking a second thread costs more than it gives: with 20 queries the join took
    half the time on one thread of two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if queries < _MANY else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def join(
    scores: Float32[np.ndarray, "queries rows"],
    asked: Postings,
    segment: Segment,
    weight: float,
    *,
    special_tokens: bool = True,
    max_words: int | None = None,
) -> None:
    """Add the contribution of one segment to `scores`, which spans all rows of the corpus, in place.

    `asked` holds the queries' postings (rows = query numbers), already cut down to what the options keep; the
    options cut the segment's side.
    """
    stored = segment.postings
    block = scores[:, segment.rows.start : segment.rows.stop]
    ours, theirs = _shared(asked, stored)
    kept = keep_mask(stored.ranks, special_tokens=special_tokens, max_words=max_words)
    asked_counts = np.diff(asked.offsets)[ours]
    stored_counts = np.diff(stored.offsets)[theirs]
    many = asked_counts * stored_counts >= _FEW
    for our, their in zip(ours[many], theirs[many], strict=True):
        _join_token(block, asked, int(our), stored, int(their), weight, kept)
    _join_pairs(block, asked, ours[~many], stored, theirs[~many], weight, kept)


def _shared(asked: Postings, stored: Postings) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the tokens that both hold stand in either: a few look-ups among the many that are stored."""
    if len(stored.tokens) == 0:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    at = np.minimum(np.searchsorted(stored.tokens, asked.tokens), len(stored.tokens) - 1)
    found = stored.tokens[at] == asked.tokens
    return np.flatnonzero(found), at[found]


def _join_token(
    block: NDArray[np.float32],
    asked: Postings,
    our: int,
    stored: Postings,
    their: int,
    weight: float,
    kept: NDArray[np.bool_] | None,
) -> None:
    """One token: a matrix product of its queries with its postings, then a scatter-add (a row occurs once)."""
    mine = slice(int(asked.offsets[our]), int(asked.offsets[our + 1]))
    span = slice(int(stored.offsets[their]), int(stored.offsets[their + 1]))
    where: slice | NDArray[np.intp] = span
    if kept is not None:
        where = np.flatnonzero(kept[span]) + span.start
        if len(where) == 0:
            return
    payload = stored.payload[where] if isinstance(where, slice) else stored.payload[torch.from_numpy(where)]
    products = (asked.gradients(mine) @ payload.float().T).numpy()  # [q, n]
    if stored.exponents is None:
        products *= np.float32(weight)
    else:
        products *= powers(stored.exponents[where]) * np.float32(weight)  # scaling products is cheaper than vectors
    rows = stored.rows[where].astype(np.intp)
    for query, line in zip(asked.rows[mine], products, strict=True):
        block[query, rows] += line


def _join_pairs(
    block: NDArray[np.float32],
    asked: Postings,
    ours: NDArray[np.intp],
    stored: Postings,
    theirs: NDArray[np.intp],
    weight: float,
    kept: NDArray[np.bool_] | None,
) -> None:
    """Rare tokens: all pairs of (query posting, stored posting) with the same token, as one batch of dot products."""
    left, right = _pairs(asked.offsets, ours, stored.offsets, theirs)
    if kept is not None:
        left, right = left[kept[right]], right[kept[right]]
    for start in range(0, len(left), _PAIRS):
        one, other = left[start : start + _PAIRS], right[start : start + _PAIRS]
        products = (asked.gradients(one) * stored.gradients(other)).sum(dim=1).numpy() * np.float32(weight)
        np.add.at(block, (asked.rows[one].astype(np.intp), stored.rows[other].astype(np.intp)), products)


def _pairs(
    left: NDArray[np.int64], ours: NDArray[np.intp], right: NDArray[np.int64], theirs: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Expand lists (given by their offsets) into all pairs list by list."""
    left_counts, right_counts = np.diff(left)[ours], np.diff(right)[theirs]
    counts = left_counts * right_counts
    which = np.repeat(np.arange(len(ours)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = left[ours][which] + within // np.maximum(right_counts[which], 1)
    second = right[theirs][which] + within % np.maximum(right_counts[which], 1)
    return first.astype(np.intp), second.astype(np.intp)


def row_vectors(
    segment: Segment,
    rows: NDArray[np.int64],
    tokens: NDArray[np.int64],
    *,
    special_tokens: bool = True,
    max_words: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float64[torch.Tensor, "p d"]]:
    """Return (row, token, vector in float64) of the postings that these corpus rows hold of these tokens.

    Sorted by row, then token. Rows outside the segment's range are passed over.
    """
    postings = segment.postings
    local = rows[(rows >= segment.rows.start) & (rows < segment.rows.stop)] - segment.rows.start
    wanted = np.zeros(segment.rows.stop - segment.rows.start, dtype=np.bool_)
    wanted[local] = True
    found: list[NDArray[np.intp]] = []
    token_of: list[NDArray[np.int64]] = []
    for token in tokens if len(local) else ():
        span = postings.span(int(token))
        if span.start == span.stop:
            continue
        at = np.flatnonzero(wanted[postings.rows[span]]) + span.start
        kept = keep_mask(postings.ranks[at], special_tokens=special_tokens, max_words=max_words)
        at = at if kept is None else at[kept]
        found.append(at)
        token_of.append(np.full(len(at), token, dtype=np.int64))
    where = np.concatenate(found) if found else np.zeros(0, dtype=np.intp)
    names = np.concatenate(token_of) if token_of else np.zeros(0, dtype=np.int64)
    corpus_rows = postings.rows[where].astype(np.int64) + segment.rows.start
    order = np.lexsort((names, corpus_rows))
    return corpus_rows[order], names[order], postings.gradients(where[order]).double()


def restrict(postings: Postings, *, special_tokens: bool, max_words: int | None) -> Postings:
    """Cut a batch of queries down to the postings that the options keep (the queries' side of Topk and NoC)."""
    kept = keep_mask(postings.ranks, special_tokens=special_tokens, max_words=max_words)
    if kept is None:
        return postings
    where = np.flatnonzero(kept)
    tokens, starts = np.unique(postings.token_of()[where], return_index=True)
    return Postings(
        tokens=tokens,
        offsets=np.append(starts, len(where)).astype(np.int64),
        rows=postings.rows[where],
        norms=postings.norms[where],
        ranks=postings.ranks[where],
        payload=postings.payload[torch.from_numpy(where)],
        exponents=None if postings.exponents is None else postings.exponents[where],
    )
