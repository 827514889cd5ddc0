"""Rows that a model sees alike: the nearest by cosine of representations, how many agree with a row, and hubs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

from headwater.progress import stage

_BLOCK = 512  # rows whose cosines with all rows are held at a time


def nearest_rows(
    features: Float32[np.ndarray, "rows d"], rows: Int64[np.ndarray, "r"], *, k: int
) -> tuple[Int64[np.ndarray, "r k"], Float64[np.ndarray, "r k"]]:
    """The k other rows of the highest cosine with each of `rows`, and the cosines; equals by their number.

    Memory: 512 x rows numbers at a time.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    k = min(k, len(features) - 1)
    near = np.zeros((len(rows), k), dtype=np.int64)
    cosines = np.zeros((len(rows), k))
    for start in range(0, len(rows) if k else 0, _BLOCK):
        some = rows[start : start + _BLOCK]
        stage("comparing each row with all others", start, len(rows), "rows")
        block = unit[some] @ unit.T  # [block, rows]
        block[np.arange(len(some)), some] = -np.inf
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        near[start : start + len(some)] = np.take_along_axis(best, order, axis=1)
        cosines[start : start + len(some)] = np.take_along_axis(values, order, axis=1)
    return near, cosines


def same_label(near: Int64[np.ndarray, "r k"], targets: Int[np.ndarray, " rows"]) -> Float64[np.ndarray, " r"]:
    """The share of each row's neighbours that carry its label; `near` are those of all rows, in order."""
    return np.asarray((targets[near] == targets[:, None]).mean(axis=1) if near.size else np.ones(len(near)))


def hub_counts(near: Int64[np.ndarray, "r k"]) -> Int64[np.ndarray, " r"]:
    """Of how many rows each row is one of the nearest; `near` are those of all rows, in order."""
    return np.bincount(near.ravel(), minlength=len(near)).astype(np.int64)
