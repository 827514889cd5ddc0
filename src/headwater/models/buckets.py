"""Which rows go into one batch: like lengths together, and equal ones where a model reads its padding."""

from __future__ import annotations

from collections.abc import Sequence

PADDING_COUNTS = frozenset({"convbert", "fnet", "nystromformer", "perceiver", "reformer", "xlnet", "yoso"})
"""Model types whose answer to a text depends on the padding after it, mask or no mask (tried: tiny models of every
type that transformers classifies with). XLNet reads the last place, FNet mixes all of them."""


def length_buckets(lengths: Sequence[int], batch_tokens: int, *, equal: bool = False) -> list[list[int]]:
    """Split positions 0..len(lengths)-1 into batches of at most `batch_tokens` padded tokens (one row at least).

    Rows are taken in order of length, equal lengths in their own order, so that the same lengths always give the
    same batches: bytes that must be equal depend on it. `equal` puts only rows of one length together.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    buckets: list[list[int]] = []
    longest = 0
    for position in order:
        length = max(lengths[position], 1)
        if not buckets or longest * (len(buckets[-1]) + 1) > batch_tokens or (equal and length != longest):
            buckets.append([])
            longest = length
        buckets[-1].append(position)
    return buckets
