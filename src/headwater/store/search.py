"""Search: the join of a batch of queries with the postings of the training rows, token by token.

    scores[q, x] += weight * sum over shared tokens w of < q_w , x_w >

All tokens of a segment are one call of `store.kernels`, because a call a token would cost more than its arithmetic.
Products and sums are float32; the few rows that are shown are scored again in float64 (see `attribution.explain`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray

from headwater.store.kernels import ALL_RANKS, add_products, stored_numbers
from headwater.store.postings import SPECIAL_RANK, Postings
from headwater.store.store import Segment, keep_mask

_MANY = 64  # queries from which on several threads help
_PIECE = 1 << 14  # vectors decoded at a time where the kernels cannot, to bound memory


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


def for_each(segments: Iterable[Segment], work: Callable[[Segment], None]) -> None:
    """Do `work` for the segments of one checkpoint, on as many threads as torch may use.

    Their rows are their own, so that threads never add to the same score, and sums are the same for any number.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for segment in segments:
            work(segment)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, segments):
            pass


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
    ours, theirs = _shared(asked, stored)
    starts, stops = stored.offsets[theirs], stored.offsets[theirs + 1]
    most = ALL_RANKS if special_tokens else SPECIAL_RANK
    said = asked.gradients(slice(None)).numpy(), asked.rows, asked.offsets[ours], asked.offsets[ours + 1]
    cut = np.float32(weight), most if max_words is None else max_words, special_tokens
    numbers = stored_numbers(stored, asked.dimension)
    if numbers is not None:
        lists = numbers, stored.exponents, stored.rows, stored.ranks, starts, stops
        add_products(scores, segment.rows.start, *lists, *said, *cut)
        return
    for at, bounds in _pieces(starts, stops):
        lists = stored.gradients(at).numpy(), None, stored.rows[at], stored.ranks[at], *bounds
        add_products(scores, segment.rows.start, *lists, *said, *cut)


def _shared(asked: Postings, stored: Postings) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the tokens that both hold stand in either: a few look-ups among the many that are stored."""
    if len(stored.tokens) == 0:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    at = np.minimum(np.searchsorted(stored.tokens, asked.tokens), len(stored.tokens) - 1)
    found = stored.tokens[at] == asked.tokens
    return np.flatnonzero(found), at[found]


def _pieces(
    starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.intp], tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Go through lists of postings that are to be decoded, in pieces that bound memory.

    Yields the postings of a piece, and where among them each list begins and ends (most of them do neither).
    """
    ends = np.cumsum(stops - starts)
    begins = ends - (stops - starts)
    for first in range(0, int(ends[-1]) if len(ends) else 0, _PIECE):
        last = min(first + _PIECE, int(ends[-1]))
        within = np.arange(first, last)
        which = np.searchsorted(ends, within, side="right")
        yield within - begins[which] + starts[which], (begins.clip(first, last) - first, ends.clip(first, last) - first)


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
