"""The rows at both ends of a query's scores, exactly, without reading most of the vectors.

A posting can add at most b = |weight| |q_w| norm to a score (Cauchy-Schwarz), and norms stand beside the row numbers,
in a hundredth of the vectors' bytes. So of every row x we know P[x], what the postings read so far add up to, and
B[x], the sum of b over the others: its score lies within P[x] - B[x] and P[x] + B[x].

1. Read row numbers and norms of the query's tokens: B.
2. Read the rows of the largest B wholly. t+ = k-th largest P - B, t- = k-th largest -P - B, neither below 0.
3. Keep a row while P + B >= t+ or B - P >= t-. Of the rows kept read the postings with b >= theta; halve theta.
4. When few rows are left, read them wholly; what still reaches t+ or t- is the answer, ties and all.

A row that is dropped can stand on neither side. Sums are float64 and padded by more than they can be wrong, so that
scoring the rows again in another order, as `attribution.explain` does, finds the same rows as after a full scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from headwater.store.kernels import ALL_RANKS, add_at, choose_postings, list_postings, stored_numbers
from headwater.store.postings import Postings
from headwater.store.store import Segment
from headwater.store.touched import Touched, joined, pages, vector_bytes

_FIRST = 5  # rows read wholly at first, times k
_START = 0.5  # theta at first, times the k-th largest B
_FASTER = 2.0  # theta is divided by this after each round
_FEW = 8  # rows in question, times k, that are read wholly: another round would save little
_ROUNDS = 8
_WORTH = 32  # vectors a segment that make a round; of fewer, the calls cost more than they save
_LISTED = 8  # bytes of a row number and a norm
_PAD = 1e-6  # of B: sums of float64 are wrong by far less
_PIECE = 1 << 14  # vectors taken from a segment at a time, to bound memory


class LooseBoundsError(Exception):
    """Bounds leave so many rows in question that a full scan is cheaper: whoever asked for a share of it scans."""


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
    most: float = 1.0,
) -> Top:
    """Find the rows that may be among the k highest above 0 or the k lowest below 0 of those `allowed`.

    A score is the sum over `lists` and tokens of <vector, stored vector>, times the row's `scale` (above 0).
    Raises LooseBoundsError when a share of more than `most` of the vectors would have to be read, before it reads them.
    """
    search = _Search(
        [_Places.of(each, segment) for each in lists for segment in each.segments], k, allowed, scale, most
    )
    search.read_first_rows()
    search.drop()
    theta, read = search.start * _START, math.inf
    for _ in range(_ROUNDS):
        if len(search.alive) <= _FEW * k:
            break
        loud = search.unread(search.alive, theta, read)
        if len(loud) >= _WORTH * search.places:
            search.read(loud)
            search.drop()
            read = theta
        theta /= _FASTER
    search.read(search.unread(search.alive, 0.0, read))
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
    """The lists of a query in one segment: list i holds the postings starts[i]..stops[i]."""

    lists: QueryLists
    segment: Segment
    which: NDArray[np.intp]
    """Of the query's tokens, by list."""
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, lists: QueryLists, segment: Segment) -> _Places:
        which, at = _shared(lists, segment.postings)
        return cls(lists, segment, which, segment.postings.offsets[at], segment.postings.offsets[at + 1])

    def list(self, bounds: NDArray[np.float64], row_of: NDArray[np.int64], bound_of: NDArray[np.float64]) -> None:
        """Write row and bound of every posting, 0 for those that `max_words` leaves out; add up the rows' bounds."""
        stored = self.segment.postings
        here = slice(self.segment.rows.start, self.segment.rows.stop)
        most = ALL_RANKS if self.lists.max_words is None else self.lists.max_words
        small = stored.rows, stored.norms, stored.ranks, self.starts, self.stops, self.lists.norms[self.which]
        list_postings(bounds[here], row_of, bound_of, *small, most)
        row_of += here.start


class _Search:
    """What is known of every row so far, and which rows are still in question.

    The postings of all lists stand end to end, known by row and bound alone: `entries` are numbers among them.
    """

    def __init__(
        self,
        places: Sequence[_Places],
        k: int,
        allowed: NDArray[np.bool_],
        scale: NDArray[np.float64] | None,
        most: float,
    ) -> None:
        self._of = [place for place in places if len(place.which)]
        self._k = k
        self._scale = scale
        self._starts = joined([place.starts for place in self._of])
        counts = joined([place.stops for place in self._of]) - self._starts
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts
        self._edges = np.cumsum([0, *(len(place.which) for place in self._of)])  # of the places, among the lists
        self._budget = int(most * counts.sum())
        self._read: list[NDArray[np.int64]] = []
        self.known = np.zeros(len(allowed))
        self.left = np.zeros(len(allowed))
        self._rows, self._bounds = np.empty(counts.sum(), np.int64), np.empty(counts.sum())
        for place, entries in zip(self._of, self._entries(), strict=True):
            place.list(self.left, self._rows[entries], self._bounds[entries])
        self._pad = _PAD * self.left
        self.alive: NDArray[np.int64] = np.flatnonzero(allowed & (self.left > 0))
        self.start = 0.0
        self._whole = np.zeros(0, dtype=np.int64)

    def _entries(self) -> list[slice]:
        """Return the entries of each place."""
        edges = np.append(self._begins, self._ends[-1:])[self._edges].tolist() if self._of else [0]
        return [slice(*pair) for pair in pairwise(edges)]

    @property
    def places(self) -> int:
        """Return in how many segments and checkpoints there is something to be read."""
        return len(self._of)

    def scale_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | float:
        return 1.0 if self._scale is None else self._scale[rows]

    def read_first_rows(self) -> None:
        """Step 2: the rows of the largest B, wholly; the k-th largest says where theta begins."""
        reach = self.left[self.alive] * self.scale_of(self.alive)
        most = _FIRST * self._k
        first = self.alive
        if len(reach) > most:
            order = np.argpartition(reach, len(reach) - most)[len(reach) - most :]
            self.start = float(np.partition(reach[order], most - self._k)[most - self._k])
            first = np.sort(self.alive[order])
        self.read(self.unread(first))
        self._whole = first

    def unread(self, rows: NDArray[np.int64], lower: float = 0.0, upper: float = math.inf) -> NDArray[np.int64]:
        """Return the entries of rows but the first whose bounds, scaled as scores are, are in [lower, upper)."""
        wanted = np.zeros(len(self.left), dtype=np.bool_)
        wanted[rows] = True
        wanted[self._whole] = False
        chosen = np.empty(len(self._rows), dtype=np.int64)
        largest = 1.0 if self._scale is None else float(self._scale[rows].max(initial=0))
        lists = self._rows, self._bounds, self._ends, self._scale
        return chosen[: choose_postings(chosen, wanted, *lists, largest, lower, upper)]

    def read(self, entries: NDArray[np.int64]) -> None:
        """Read vectors: what they add becomes known, and what they could add is taken off B."""
        self._budget -= len(entries)
        if self._budget < 0:
            raise LooseBoundsError
        self._read.append(entries)
        lists = np.searchsorted(self._ends, entries, side="right")
        at = entries - self._begins[lists] + self._starts[lists]
        edges = np.searchsorted(lists, self._edges)
        for place, first, last, offset in zip(self._of, edges, edges[1:], self._edges, strict=False):
            for start in range(first, last, _PIECE):
                piece = slice(start, min(start + _PIECE, last))
                self._add(place, at[piece], self._rows[entries[piece]], place.which[lists[piece] - offset])
        np.subtract.at(self.left, self._rows[entries], self._bounds[entries])

    def _add(self, place: _Places, at: NDArray[np.int64], rows: NDArray[np.int64], tokens: NDArray[np.intp]) -> None:
        stored = place.segment.postings
        numbers, exponents = stored_numbers(stored, place.lists.vectors.shape[1]), stored.exponents
        if numbers is None:
            numbers, exponents, at = stored.gradients(at).numpy(), None, np.arange(len(at))
        add_at(self.known, numbers, exponents, at, rows, place.lists.vectors.numpy(), tokens)

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

    def touched(self) -> Touched:
        read = np.sort(joined(self._read))
        of = np.searchsorted(self._ends, read, side="right")
        at = read - self._begins[of] + self._starts[of]
        sizes = np.array([vector_bytes(place.segment.postings) for place in self._of], dtype=np.int64)
        bases = np.array([place.segment.postings.payload.data_ptr() for place in self._of], dtype=np.int64)
        place_of = np.repeat(np.arange(len(self._of)), np.diff(self._edges))  # of each list
        first, size = bases[place_of] + self._starts * sizes[place_of], sizes[place_of]
        here = bases[place_of[of]] + at * size[of]
        counts = self._ends - self._begins
        small = [_LISTED + (place.lists.max_words is not None) for place in self._of]
        return Touched(
            postings=len(self._rows),
            payload_bytes=int((counts * size).sum()),
            pages=pages(first, first + counts * size),
            read_postings=len(read),
            read_bytes=int(size[of].sum()),
            read_pages=pages(here, here + size[of]),
            listed_bytes=int((counts * np.array(small, dtype=np.int64)[place_of]).sum()),
        )
