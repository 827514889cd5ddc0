"""How good are suggestions, judged by a random sample that somebody looked at."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

from headwater.remedies.marks import Mark
from headwater.remedies.plan import Repair

SAMPLE = 10
BANDS = 4
_Z = 1.959963984540054  # the normal's 97.5% point


@dataclass(frozen=True)
class Band:
    """Suggestions of neighbouring rank, `first` to `last` from 1: of `reviewed` rows `right` were wrong rows."""

    first: int
    last: int
    reviewed: int
    right: int
    low: float
    high: float
    left: int
    """Rows that nobody decided on."""

    @property
    def precision(self) -> float | None:
        """Share of the reviewed rows that were wrong indeed; None if none was reviewed."""
        return self.right / self.reviewed if self.reviewed else None


@dataclass(frozen=True)
class Left:
    """About so many wrong rows are among those undecided. `about` is None while a band with such rows is unseen."""

    about: float | None
    low: float
    high: float


def sample_of(repairs: Sequence[Repair], size: int = SAMPLE, seed: int = 0) -> list[Repair]:
    """Draw `size` suggestions, the same each time, in random order; all of them if there are fewer."""
    return random.Random(seed).sample(list(repairs), min(size, len(repairs)))


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927, JASA 22): 0 to 1 where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, spread = right / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * sqrt(share * (1 - share) / count + spread / (4 * count))
    low = 0.0 if right == 0 else middle - half  # exact at the ends, where rounding leaves a trace
    return low, 1.0 if right == count else middle + half


def was_right(mark: Mark) -> bool:
    """Whether a reviewer found the row wrong: something shall be done to it."""
    return mark.repair.status == "accepted" and mark.repair.action != "keep"


def bands_of(ranked: Sequence[Repair], marks: Mapping[int, Mark], bands: int = BANDS) -> list[Band]:
    """Return the precision by band of rank. Only rows marked by hand count: groups accepted as a whole prove nothing.

    The reviewed rows must be a random sample of their band for the interval to hold.
    """
    count = min(bands, len(ranked))
    edges = [len(ranked) * band // count for band in range(count + 1)] if count else [0]
    made = []
    for first, last in pairwise(edges):
        known = [marks.get(-1 if repair.row is None else repair.row) for repair in ranked[first:last]]
        seen = [mark for mark in known if mark is not None and mark.by_hand]
        left = sum(mark is None or mark.repair.status == "suggested" for mark in known)
        right = sum(map(was_right, seen))
        made.append(Band(first + 1, last, len(seen), right, *wilson(right, len(seen)), left))
    return made


def wrong_left(bands: Sequence[Band]) -> Left:
    """Return how many wrong rows the undecided ones hold: each band's precision times its undecided rows.

    The bounds add up those of the bands, so they are wider than 95%.
    """
    open_bands = [band for band in bands if band.left]
    known = [band.precision * band.left for band in open_bands if band.precision is not None]
    about = sum(known) if len(known) == len(open_bands) else None
    return Left(about, sum(b.low * b.left for b in open_bands), sum(b.high * b.left for b in open_bands))
