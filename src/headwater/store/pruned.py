"""The rows at both ends of a query's scores, exactly, without reading most of the vectors.

A posting can add at most b = |weight| |q_w| norm to a score (Cauchy-Schwarz), and norms stand beside the row numbers,
in a hundredth of the vectors' bytes. So of every row x we know P[x], what the postings read so far add up to, and
B[x], the sum of b over the others: its score lies within P[x] - B[x] and P[x] + B[x].

1. Read row numbers and norms of the query's tokens: B.
2. Read the rows of the largest B wholly. t+ = k-th largest P - B, t- = k-th largest -P - B, neither below 0.
3. Keep a row while P + B >= t+ or B - P >= t-. Of the rows kept read the postings with b >= theta; halve theta.
4. When few postings are left, read them; what still reaches t+ or t- is the answer, ties and all.

A row that is dropped can stand on neither side. Sums are float64 and padded by more than they can be wrong, so that
scoring the rows again in another order, as `attribution.explain` does, finds the same rows as after a full scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from headwater.store.postings import SPECIAL_RANK, Postings
from headwater.store.store import Segment
from headwater.store.touched import Touched, joined, pages_of, vector_bytes

_FIRST = 5  # rows read wholly at first, times k
_START = 0.5  # theta at first, times the k-th largest B
_FASTER = 2.0  # theta is divided by this after each round
_ROUNDS = 6
_PAD = 1e-6  # of B: sums of float64 are wrong by far less
_PIECE = 1 << 14  # vectors taken from a segment at a time, to bound memory


@dataclass(frozen=True)
class QueryLists:
    """One query at one checkpoint: the tokens whose lists are searched, and what it pushed at each.

    `max_words` leaves out the postings whose rank is not below it (Topk); special tokens have none.
    """

    segments: Sequence[Segment]
    tokens: Int64[np.ndarray, "t"]
    vectors: Float64[torch.Tensor, "t d"]
    """Times the checkpoint's weight."""
    norms: Float64[np.ndarray, "t"]
    """At least those of `vectors`."""
    max_words: int | None = None


@dataclass(frozen=True)
class Top:
    """`rows` ascending: those that may stand among the k highest or lowest, a handful more than 2k at most ties."""

    rows: Int64[np.ndarray, "r"]
    touched: Touched


def search_pruned(
    lists: Sequence[QueryLists],
    k: int,
    allowed: Bool[np.ndarray, "rows"],
    scale: Float64[np.ndarray, "rows"] | None = None,
) -> Top:
    """Find the rows that may be among the k highest above 0 or the k lowest below 0 of those `allowed`.

    A score is the sum over `lists` and tokens of <vector, stored vector>, times the row's `scale` (above 0).
    """
    places = [
        _Places.of(each, segment)
        for each in lists
        for segment in each.segments
        if len(_shared(each, segment.postings)[0])
    ]
    search = _Search(places, k, allowed, scale)
    first = search.first_rows()
    search.read(search.unread(first))
    search.drop()
    left = search.unread(np.setdiff1d(search.alive, first, assume_unique=True))
    theta = search.start * _START
    for _ in range(_ROUNDS):
        if len(search.alive) <= 2 * k or len(left) == 0:
            break
        loud = left.bounds * search.scale_of(left.rows) >= theta
        search.read(left.take(loud))
        search.drop()
        left = left.take(~loud & search.is_alive(left.rows))
        theta /= _FASTER
    search.read(left.take(search.is_alive(left.rows)))
    search.drop()
    return Top(np.sort(search.alive), search.touched())


def _shared(lists: QueryLists, stored: Postings) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which of the query's tokens a segment has, and where they stand among its tokens."""
    if len(stored.tokens) == 0:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    at = np.minimum(np.searchsorted(stored.tokens, lists.tokens), len(stored.tokens) - 1)
    found = stored.tokens[at] == lists.tokens
    return np.flatnonzero(found), at[found]


@dataclass(frozen=True)
class _Places:
    """The lists of a query in one segment, end to end: list i is entries ends[i-1]..ends[i]-1, from `starts[i]` on."""

    lists: QueryLists
    segment: Segment
    which: NDArray[np.intp]
    """Of the query's tokens, by list."""
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, lists: QueryLists, segment: Segment) -> _Places:
        which, at = _shared(lists, segment.postings)
        starts, stops = segment.postings.offsets[at], segment.postings.offsets[at + 1]
        return cls(lists, segment, which, starts, stops, np.cumsum(stops - starts))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def entries(self) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
        """Return the local row and the bound b of every entry; 0 for those that `max_words` leaves out."""
        stored = self.segment.postings
        spans = [slice(int(start), int(stop)) for start, stop in zip(self.starts, self.stops, strict=True)]
        local = np.concatenate([stored.rows[span] for span in spans])
        bounds = np.concatenate([stored.norms[span] for span in spans]).astype(np.float64)
        bounds *= np.repeat(self.lists.norms[self.which], self.stops - self.starts)
        if self.lists.max_words is not None:
            ranks = np.concatenate([stored.ranks[span] for span in spans])
            bounds[(ranks >= self.lists.max_words) & (ranks != SPECIAL_RANK)] = 0
        return local, bounds

    @property
    def rows(self) -> slice:
        """Return the rows that the segment's are."""
        return slice(self.segment.rows.start, self.segment.rows.stop)


@dataclass(frozen=True)
class _Unread:
    """Postings that are known by row and bound alone, in the order of `place`: which segment's list they are of."""

    rows: NDArray[np.int64]
    bounds: NDArray[np.float64]
    place: NDArray[np.int64]
    token: NDArray[np.int64]
    at: NDArray[np.int64]
    """Where the vector stands in its segment."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[np.bool_]) -> _Unread:
        return _Unread(self.rows[chosen], self.bounds[chosen], self.place[chosen], self.token[chosen], self.at[chosen])

    @classmethod
    def joined(cls, parts: Sequence[_Unread]) -> _Unread:
        return cls(
            joined([part.rows for part in parts]),
            np.concatenate([np.zeros(0), *(part.bounds for part in parts)]),
            joined([part.place for part in parts]),
            joined([part.token for part in parts]),
            joined([part.at for part in parts]),
        )


class _Search:
    """What is known of every row so far, and which rows are still in question."""

    def __init__(
        self,
        places: Sequence[_Places],
        k: int,
        allowed: NDArray[np.bool_],
        scale: NDArray[np.float64] | None,
    ) -> None:
        self._places = places
        self._k = k
        self._scale = scale
        self._count = len(allowed)
        self._read: list[list[NDArray[np.int64]]] = [[] for _ in places]
        self.known = np.zeros(self._count)
        self.left = self._all_bounds()
        self._pad = _PAD * self.left
        self.alive: NDArray[np.int64] = np.flatnonzero(allowed & (self.left > 0))
        self.start = 0.0

    def _all_bounds(self) -> NDArray[np.float64]:
        """Step 1: B of every row, from row numbers and norms alone."""
        bounds = np.zeros(self._count)
        for place in self._places:
            local, each = place.entries()
            bounds[place.rows] += np.bincount(local, weights=each, minlength=place.rows.stop - place.rows.start)
        return bounds

    def scale_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | float:
        return 1.0 if self._scale is None else self._scale[rows]

    def first_rows(self) -> NDArray[np.int64]:
        """Step 2: the rows of the largest B; the k-th largest says where theta begins."""
        reach = self.left[self.alive] * self.scale_of(self.alive)
        most = _FIRST * self._k
        if len(reach) <= most:
            return self.alive
        order = np.argpartition(reach, len(reach) - most)[len(reach) - most :]
        self.start = float(np.partition(reach[order], most - self._k)[most - self._k])
        return np.sort(self.alive[order])

    def unread(self, rows: NDArray[np.int64]) -> _Unread:
        """Find all postings of rows of which nothing was read yet."""
        wanted = np.zeros(self._count, dtype=np.bool_)
        wanted[rows] = True
        found = []
        for number, place in enumerate(self._places):
            here = wanted[place.rows]
            if not here.any():
                continue
            local, bounds = place.entries()
            at = np.flatnonzero(here[local] & (bounds > 0))
            which = np.searchsorted(place.ends, at, side="right")
            position = at - (place.ends - (place.stops - place.starts))[which] + place.starts[which]
            row = local[at].astype(np.int64) + place.rows.start
            found.append(_Unread(row, bounds[at], np.full(len(at), number), place.which[which], position))
        return _Unread.joined(found)

    def read(self, postings: _Unread) -> None:
        """Read vectors: what they add becomes known, and what they could add is taken off B."""
        for piece, number in _by_place(postings.place):
            place = self._places[number]
            self._read[number].append(postings.at[piece])
            vectors = place.segment.postings.gradients(postings.at[piece]).double()
            asked = place.lists.vectors[torch.from_numpy(postings.token[piece])]
            np.add.at(self.known, postings.rows[piece], torch.linalg.vecdot(vectors, asked).numpy())
        np.subtract.at(self.left, postings.rows, postings.bounds)

    def drop(self) -> None:
        """Drop the rows that can no longer reach either side."""
        rows = self.alive
        scale, pad = self.scale_of(rows), self._pad[rows]
        known, left = self.known[rows], np.maximum(self.left[rows], 0)
        above = (known + left + pad) * scale >= self._least((known - left - pad) * scale)
        below = (left - known + pad) * scale >= self._least((-known - left - pad) * scale)
        self.alive = rows[(above & (known + left + pad > 0)) | (below & (left - known + pad > 0))]

    def _least(self, lower: NDArray[np.float64]) -> float:
        if len(lower) < self._k:
            return 0.0
        return max(0.0, float(np.partition(lower, len(lower) - self._k)[len(lower) - self._k]))

    def is_alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(self._count, dtype=np.bool_)
        mask[self.alive] = True
        return mask[rows]

    def touched(self) -> Touched:
        postings = payload = pages = read = read_bytes = read_pages = listed = 0
        for place, seen in zip(self._places, self._read, strict=True):
            stored, at = place.segment.postings, joined(seen)
            size = vector_bytes(stored)
            postings += len(place)
            payload += len(place) * size
            pages += pages_of(stored, place.starts, place.stops)
            read += len(at)
            read_bytes += len(at) * size
            read_pages += pages_of(stored, at, at + 1)
            small = stored.rows.itemsize + stored.norms.itemsize + (place.lists.max_words is not None)
            listed += len(place) * small
        return Touched(postings, payload, pages, read, read_bytes, read_pages, listed)


def _by_place(place: NDArray[np.int64]) -> Iterator[tuple[slice, int]]:
    """Go through runs of the same place, in pieces that bound memory."""
    edges = np.flatnonzero(np.diff(place)) + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(place)], strict=True):
        for at in range(start, stop, _PIECE):
            yield slice(at, min(at + _PIECE, stop)), int(place[at])
