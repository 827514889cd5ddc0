"""Texts that are nearly the same: MinHash finds candidates (datasketch), the exact Jaccard similarity decides.

    J(a, b) = |A & B| / |A | B|,   A, B the sets of 5-character pieces of the texts, in lower case, spaces made one

Source: Broder 1997; Lee et al. 2022, Deduplicating Training Data Makes Language Models Better, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from headwater.errors import UsageError
from headwater.progress import progress_bar

THRESHOLD = 0.8
_PIECE = 5  # characters
_PERMUTATIONS = 128
_GLANCE = 256  # texts between two looks at the clock
_CLOSER = 0.05  # candidates are sought so far below the threshold, for MinHash misses some at its own


@dataclass(frozen=True)
class Pair:
    """Two texts, by number, `first` before `second`, and their similarity."""

    first: int
    second: int
    similarity: float


def pieces(text: str) -> frozenset[str]:
    """All runs of 5 characters of a text; of a shorter one, itself."""
    plain = " ".join(text.casefold().split())
    return frozenset(plain[start : start + _PIECE] for start in range(max(len(plain) - _PIECE + 1, 1)))


@dataclass(frozen=True)
class Near:
    """Pairs among the first `compared` texts, in order."""

    pairs: list[Pair]
    compared: int


def near_pairs(
    texts: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    left: Callable[[], float] | None = None,
    show: bool | None = None,
) -> Near:
    """All pairs of texts of a similarity of at least `threshold`; `left` says how many seconds there are, None: enough.

    Texts that are equal but for case and spaces are tied to the first of them only.

    Raises UsageError for a threshold that is not above 0 and at most 1, or without datasketch.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"the threshold must be above 0 and at most 1; it is {threshold}.")
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise UsageError("this audit needs datasketch: pip install 'headwater[audit]'.") from error
    found: list[Pair] = []
    first_of: dict[str, int] = {}
    closeness = max(threshold - _CLOSER, 0.05)
    lsh = MinHashLSH(threshold=closeness, num_perm=_PERMUTATIONS, weights=(0.3, 0.7))
    base = MinHash(num_perm=_PERMUTATIONS, seed=1)
    kept: dict[int, frozenset[str]] = {}
    compared = len(texts)
    with progress_bar("comparing texts", len(texts), unit="texts", show=show) as advance:
        for number, text in enumerate(texts):
            if left is not None and number % _GLANCE == 0 and left() <= 0:
                compared = number
                break
            plain = " ".join(text.casefold().split())
            if plain in first_of:
                found.append(Pair(first_of[plain], number, 1.0))
            else:
                first_of[plain] = number
                mine = pieces(text)
                sketch = base.copy()
                sketch.update_batch([piece.encode("utf-8", "surrogatepass") for piece in sorted(mine)])
                for other in sorted(lsh.query(sketch)):
                    similarity = len(mine & kept[other]) / len(mine | kept[other])
                    if similarity >= threshold:
                        found.append(Pair(other, number, similarity))
                lsh.insert(number, sketch, check_duplication=False)
                kept[number] = mine
            advance(1)
    return Near(sorted(found, key=lambda pair: (pair.first, pair.second)), compared)


def clusters(count: int, pairs: Sequence[Pair]) -> list[list[int]]:
    """Texts that hang together by pairs: the largest cluster first, then by its first text; each ascending."""
    first, second = (np.array([getattr(pair, name) for pair in pairs], dtype=np.int64) for name in ("first", "second"))
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(count, count))
    labels: Int64[np.ndarray, " texts"] = connected_components(links, directed=False)[1]
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    found = [part.tolist() for part in parts if len(part) > 1]
    return sorted(found, key=lambda part: (-len(part), part[0]))
