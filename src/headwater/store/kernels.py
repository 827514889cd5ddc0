"""The inner loops of search, compiled by numba: vectors are decoded and multiplied in one pass over their bytes.

They take the arrays of `store.postings` as they lie in a file (`stored_numbers`), so nothing is decoded that is not
used at once. Compiled code is kept beside this file, or in numba's cache folder where that cannot be written, or not
at all. Sums may be taken in any order, but in the same one by the same machine code, whatever other threads do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from headwater.store.halves import powers
from headwater.store.postings import SPECIAL_RANK, Postings

ALL_RANKS = SPECIAL_RANK + 1  # postings of a rank below this are all

_FEW = 4  # queries of a token below which each vector is decoded as it is multiplied; it may be done again for another
_TILE = 16  # vectors that are decoded for many queries at a time: 24 KiB of 384 numbers, so that they stay near
_LINE = 64  # bytes that memory brings at least
_AHEAD = 8  # vectors: 2 to 16 were measured, and all of them halve the time
_POWERS = powers(np.arange(-128, 128))
_SUMS = ("reassoc", "contract", "nsz")  # what a compiler may do to sums: another order, no zeros' signs
_HALF_BITS = np.int32(0x8FFFE000 - (1 << 32))  # of a float16 in the place of a float32's: sign, exponent, fraction
_HALF_SCALE = np.float32(2.0**112)  # the two kinds count exponents from 15 and from 127

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.integer[Any]]
Exponents = NDArray[np.int8] | None


def stored_numbers(postings: Postings, width: int) -> NDArray[Any] | None:
    """Return the payload as the kernels read it, float16 as int16; None for a kind that they do not know."""
    payload = postings.payload
    if payload.dtype == torch.float16:
        payload = payload.view(torch.int16)
    if payload.dtype not in (torch.int16, torch.int8, torch.uint8, torch.float32) or postings.dimension != width:
        return None
    if (postings.exponents is None) != (payload.dtype == torch.float32):
        return None
    numbers: NDArray[Any] = payload.numpy()
    return numbers


def _compiled(function: Callable[..., Any], sums: Collection[str] = _SUMS) -> Callable[..., Any]:
    with_cache, without = (njit(cache=kept, nogil=True, fastmath=set(sums)) for kept in (True, False))
    try:
        return with_cache(function)
    except RuntimeError:  # there is no folder to keep it in
        return without(function)


def _half(number: np.int16) -> np.float32:
    """Decode a float16, exactly: with operations on integers, which any processor does on many numbers at once."""
    return np.int32((np.int32(number) << 13) & _HALF_BITS).view(np.float32) * _HALF_SCALE


_half_number = _compiled(_half, sums=())  # in another order the scale would meet a query's number first, and overflow


def _decoded(number: Any) -> Any:
    """Compiled alone: see `_decoder`."""


def _decoder(number):  # type: ignore[no-untyped-def]
    if number == types.int16:
        return lambda number: _half_number(number)
    return lambda number: np.float32(number)


overload(_decoded, inline="always")(_decoder)


@_compiled
def _low(byte: np.uint8) -> np.float32:
    """Return the number in the low half of an int4 payload's byte."""
    return np.float32(np.uint8((byte ^ 136) & 15)) - np.float32(8)


@_compiled
def _high(byte: np.uint8) -> np.float32:
    return np.float32(np.uint8((byte ^ 136) >> 4)) - np.float32(8)


def _dot(payload: Any, at: int, vectors: Any, query: int) -> Any:
    """Compiled alone, as are the two below: see `_dot_of`."""


def _dot_of(payload, at, vectors, query):  # type: ignore[no-untyped-def]
    """The numbers of vector `at` times those of a query."""

    def whole(payload, at, vectors, query):  # type: ignore[no-untyped-def]
        product = np.float32(0)
        for j in range(vectors.shape[1]):
            product += _decoded(payload[at, j]) * vectors[query, j]
        return product

    def halved(payload, at, vectors, query):  # type: ignore[no-untyped-def]
        product = np.float32(0)
        half = payload.shape[1] - 1
        for j in range(half):
            byte = payload[at, j]
            product += _low(byte) * vectors[query, j] + _high(byte) * vectors[query, half + j]
        return product

    return halved if payload.dtype == types.uint8 else whole


def _unpack(payload: Any, at: int, tile: Any, line: int) -> Any:
    """See `_unpacker`."""


def _unpacker(payload, at, tile, line):  # type: ignore[no-untyped-def]
    """Write the numbers of vector `at` into a line of `tile`."""

    def whole(payload, at, tile, line):  # type: ignore[no-untyped-def]
        for j in range(tile.shape[1]):
            tile[line, j] = _decoded(payload[at, j])

    def halved(payload, at, tile, line):  # type: ignore[no-untyped-def]
        half = payload.shape[1] - 1
        for j in range(half):
            tile[line, j] = _low(payload[at, j])
            tile[line, half + j] = _high(payload[at, j])

    return halved if payload.dtype == types.uint8 else whole


def _scale(payload: Any, exponents: Any, at: int) -> Any:
    """See `_scale_of`."""


def _scale_of(payload, exponents, at):  # type: ignore[no-untyped-def]
    """What all numbers of vector `at` are to be multiplied by."""

    def whole(payload, exponents, at):  # type: ignore[no-untyped-def]
        return _power(exponents, at)

    def halved(payload, exponents, at):  # type: ignore[no-untyped-def]
        return _power(exponents, at) * (np.float32(256) + np.float32(payload[at, payload.shape[1] - 1]))

    return halved if payload.dtype == types.uint8 else whole


overload(_dot)(_dot_of)
overload(_unpack)(_unpacker)
overload(_scale)(_scale_of)


def _prefetcher(_, array, at):  # type: ignore[no-untyped-def]
    """Ask for the memory of array.flat[at] and go on: a vector somewhere else is half an age away."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        where = builder.bitcast(builder.gep(data, [given[1]]), pointer)
        builder.call(prefetch, [where, number(0), number(3), number(1)])  # to be read, to be kept, as data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_prefetch: Any = intrinsic(_prefetcher)


@_compiled
def _fetch(payload: NDArray[Any], at: int) -> None:
    for j in range(0, payload.shape[1], _LINE // payload.itemsize):
        _prefetch(payload, at * payload.shape[1] + j)


@_compiled
def _power(exponents: Exponents, at: int) -> np.float32:
    if exponents is None:
        return np.float32(1)
    return _POWERS[exponents[at] + 128]  # type: ignore[no-any-return]


@_compiled
def _is_kept(rank: int, below: int, special: bool) -> bool:
    return rank < below or (special and rank == SPECIAL_RANK)


@_compiled
def _dots_1(tile: Floats, at: int, vectors: Floats, query: int, products: Floats) -> None:
    """Four vectors with one query."""
    a = b = c = d = np.float32(0)
    for i in range(tile.shape[1]):
        x = vectors[query, i]
        a += tile[at, i] * x
        b += tile[at + 1, i] * x
        c += tile[at + 2, i] * x
        d += tile[at + 3, i] * x
    products[0, at], products[0, at + 1], products[0, at + 2], products[0, at + 3] = a, b, c, d


@_compiled
def _dots_4(tile: Floats, at: int, vectors: Floats, query: int, products: Floats) -> None:
    """Four vectors with four queries: sixteen sums stay in registers, two products for each number that is read."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
    for i in range(tile.shape[1]):
        x0, x1, x2, x3 = vectors[query, i], vectors[query + 1, i], vectors[query + 2, i], vectors[query + 3, i]
        a, b, c, d = tile[at, i], tile[at + 1, i], tile[at + 2, i], tile[at + 3, i]
        a0, a1, a2, a3 = a0 + a * x0, a1 + a * x1, a2 + a * x2, a3 + a * x3
        b0, b1, b2, b3 = b0 + b * x0, b1 + b * x1, b2 + b * x2, b3 + b * x3
        c0, c1, c2, c3 = c0 + c * x0, c1 + c * x1, c2 + c * x2, c3 + c * x3
        d0, d1, d2, d3 = d0 + d * x0, d1 + d * x1, d2 + d * x2, d3 + d * x3
    products[0, at], products[1, at], products[2, at], products[3, at] = a0, a1, a2, a3
    products[0, at + 1], products[1, at + 1], products[2, at + 1], products[3, at + 1] = b0, b1, b2, b3
    products[0, at + 2], products[1, at + 2], products[2, at + 2], products[3, at + 2] = c0, c1, c2, c3
    products[0, at + 3], products[1, at + 3], products[2, at + 3], products[3, at + 3] = d0, d1, d2, d3


@_compiled
def add_products(
    scores: Floats,
    first_row: int,
    payload: NDArray[Any],
    exponents: Exponents,
    rows: NDArray[np.uint32],
    ranks: NDArray[np.uint8],
    starts: Places,
    stops: Places,
    vectors: Floats,
    queries: NDArray[np.uint32],
    begins: Places,
    ends: Places,
    weight: np.float32,
    below: int,
    special: bool,
) -> None:
    """Add to `scores` [queries, rows] the products of lists of postings with the queries that ask for each.

    List i is postings starts[i]..stops[i], whose rows are counted from `first_row`; it is asked for by the vectors
    begins[i]..ends[i], which are of `queries`. Postings are left out but for ranks below `below`, and, where
    `special`, those of special tokens.
    """
    tile = np.zeros((_TILE, vectors.shape[1]), np.float32)
    places = np.zeros(_TILE, np.int64)
    products = np.zeros((4, _TILE), np.float32)
    for i in range(len(starts)):
        if ends[i] - begins[i] < _FEW:
            for at in range(starts[i], stops[i]):
                if not _is_kept(ranks[at], below, special):
                    continue
                if at + _AHEAD < stops[i]:
                    _fetch(payload, at + _AHEAD)
                factor = _scale(payload, exponents, at) * weight
                for query in range(begins[i], ends[i]):
                    scores[queries[query], first_row + rows[at]] += _dot(payload, at, vectors, query) * factor
            continue
        at = starts[i]
        while at < stops[i]:
            count = 0
            while at < stops[i] and count < _TILE:
                if _is_kept(ranks[at], below, special):
                    _unpack(payload, at, tile, count)
                    places[count] = at
                    count += 1
                at += 1
            query = begins[i]
            while query < ends[i]:
                together = 4 if query + 4 <= ends[i] else 1
                for first in range(0, count, 4):  # what is left of an earlier tile is multiplied too, and not added
                    if together == 4:
                        _dots_4(tile, first, vectors, query, products)
                    else:
                        _dots_1(tile, first, vectors, query, products)
                for j in range(together):
                    line = scores[queries[query + j], first_row:]
                    for number in range(count):
                        place = places[number]
                        line[rows[place]] += products[j, number] * (_scale(payload, exponents, place) * weight)
                query += together


@_compiled
def list_postings(
    bounds: Doubles,
    row_of: Places,
    bound_of: Doubles,
    rows: NDArray[np.uint32],
    norms: Floats,
    ranks: NDArray[np.uint8],
    starts: Places,
    stops: Places,
    lengths: Doubles,
    below: int,
) -> None:
    """Write row and bound of the postings of lists, end to end, and add each to the `bounds` of its row.

    A bound is the most that a posting can add: its norm times the list's `lengths`. It is 0 for ranks from `below` on,
    but for special tokens.
    """
    entry = 0
    for i in range(len(starts)):
        for at in range(starts[i], stops[i]):
            bound = np.float64(norms[at]) * lengths[i]
            if below < ALL_RANKS and not _is_kept(ranks[at], below, True):
                bound = 0.0
            row_of[entry] = rows[at]
            bound_of[entry] = bound
            bounds[rows[at]] += bound
            entry += 1


@_compiled
def choose_postings(
    chosen: Places,
    wanted: NDArray[np.bool_],
    row_of: Places,
    bound_of: Doubles,
    ends: Places,
    scale: Doubles | None,
    largest: float,
    lower: float,
    upper: float,
) -> int:
    """Write which postings of rows `wanted` have a bound, times the row's `scale`, in [lower, upper); return how many.

    Within a list, which ends at ends[i], bounds descend, but for those that are 0; no scale is above `largest`.
    """
    count = begin = 0
    for end in ends:
        for entry in range(begin, end):
            bound = bound_of[entry]
            if bound == 0:
                continue
            if bound * largest < lower:
                break
            if wanted[row_of[entry]]:
                if scale is not None:
                    bound *= scale[row_of[entry]]
                if lower <= bound < upper:
                    chosen[count] = entry
                    count += 1
        begin = end
    return count


@_compiled
def add_at(
    known: Doubles,
    payload: NDArray[Any],
    exponents: Exponents,
    at: Places,
    rows: Places,
    vectors: Doubles,
    which: Places,
) -> None:
    """Add to known[rows[i]] the product, in float64, of the stored vector at[i] with vectors[which[i]]."""
    width = vectors.shape[1]
    numbers = np.zeros((1, width), np.float32)
    for i in range(len(at)):
        if i + _AHEAD < len(at):
            _fetch(payload, at[i + _AHEAD])
        scale = _scale(payload, exponents, at[i])
        _unpack(payload, at[i], numbers, 0)
        product = 0.0
        for j in range(width):
            product += np.float64(numbers[0, j] * scale) * vectors[which[i], j]
        known[rows[i]] += product
