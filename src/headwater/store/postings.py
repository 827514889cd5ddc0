"""Postings: token gradients as an inverted index, token -> (row, vector), in impact order.

    tokens   [t]    the tokens that occur, ascending          offsets [t+1]  where each one's postings begin
    rows     [p]    local row number                          norms   [p]    L2 norm of the stored vector, rounded up
    ranks    [p]    place within the row by norm, 0 = largest, special tokens not counted (SPECIAL_RANK), at most 254
    payload  [p, d] the vectors, in storage dtype             exponents [p]  vector = payload * 2**exponent (no float32)
                                                          (int4: in pairs, see `store.halves`: [p, d/2 + 1])

Within a token postings stand by descending norm, equal norms by row. The same structure holds a range of training
rows (memory-mapped from a segment file) and a batch of queries (in memory), so that search is a join of two of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from headwater.errors import StoreError
from headwater.gradients.tokens import TokenGradients
from headwater.store.halves import decode_int4, encode_half, encode_int4, encode_int8, powers

Dtype = Literal["float16", "float32"]
PostingDtype = Literal["float16", "float32", "int8", "int4"]
SPECIAL_RANK = 255
_LAST_RANK = 254
_SMALL, _LARGE = 1e-15, 1e15  # norms between which float32 can sum squares of components


@dataclass(frozen=True)
class Postings:
    """See the module's docstring. Arrays may be views of a memory-mapped file: never write to them."""

    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    rows: NDArray[np.uint32]
    norms: NDArray[np.float32]
    ranks: NDArray[np.uint8]
    payload: Tensor
    exponents: NDArray[np.int8] | None

    def __len__(self) -> int:
        """Return the number of postings."""
        return len(self.rows)

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        width = int(self.payload.shape[1])
        return 2 * (width - 1) if self.payload.dtype == torch.uint8 else width

    def span(self, token: int) -> slice:
        """Return where the postings of `token` stand; an empty slice when it does not occur."""
        at = int(np.searchsorted(self.tokens, token))
        if at == len(self.tokens) or self.tokens[at] != token:
            return slice(0, 0)
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    def gradients(self, where: slice | NDArray[np.intp]) -> Float32[Tensor, "n d"]:
        """Return the vectors at `where`, decoded to float32."""
        stored = self.payload[where] if isinstance(where, slice) else self.payload[torch.from_numpy(where)]
        vectors = _numbers(stored)
        if self.exponents is None:
            return vectors
        return vectors * torch.from_numpy(powers(self.exponents[where]))[:, None]

    def token_of(self) -> NDArray[np.int64]:
        """Return the token of every posting, [p]."""
        return np.repeat(self.tokens, np.diff(self.offsets))


@dataclass(frozen=True)
class Block:
    """Postings of some whole rows, encoded, not yet in order."""

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    norms: NDArray[np.float32]
    ranks: NDArray[np.uint8]
    payload: Tensor
    exponents: NDArray[np.int8] | None


def encode_block(
    gradients: TokenGradients, *, dtype: PostingDtype, special: Collection[int] = (), max_words: int | None = None
) -> Block:
    """Encode the token gradients of whole rows for storage.

    Postings whose vector is zero are dropped: they add nothing to any score. With `max_words` only the that many
    largest of each row are kept (Topk of the paper); special tokens are not counted and always kept. Raises StoreError
    for a vector so long that float32 cannot hold its norm, or float16 a component; and of an odd length, as int4.
    """
    payload, exponents = _encode(gradients.gradients, dtype)
    norms = _norms(payload, exponents)
    rows, tokens = gradients.rows.numpy(), gradients.tokens.numpy()
    if not np.isfinite(norms).all():
        row = int(rows[~np.isfinite(norms)].min()) + 1
        raise StoreError(
            f"row {row:,}: its gradient is too large to be stored (a norm of 3.4e38 or more). The training diverged: "
            "choose an earlier checkpoint."
        )
    ranks = _ranks(rows, tokens, norms, special)
    kept = norms > 0
    if max_words is not None:
        kept &= (ranks < max_words) | (ranks == SPECIAL_RANK)
    if not kept.all():
        rows, tokens, norms, ranks = rows[kept], tokens[kept], norms[kept], ranks[kept]
        payload = payload[torch.from_numpy(kept)]
        exponents = None if exponents is None else exponents[kept]
    return Block(rows, tokens, norms, ranks, payload, exponents)


def in_order(
    blocks: Iterable[Block], *, first_row: int = 0, energy: float | None = None
) -> tuple[dict[str, NDArray[Any]], Tensor, NDArray[np.intp]]:
    """Sort blocks by token, then impact. Returns the small arrays in order, the payload out of order, and the order.

    The payload is the bulk of the bytes: it is held once, and whoever takes it writes `payload[order]` piece by piece.
    With `energy` the postings of the smallest norms are left out (see `strongest`).
    """
    taken = _joined(blocks)
    rows, tokens, norms = taken["rows"] - first_row, taken["tokens"], taken["norms"]
    order = np.lexsort((rows, -norms, tokens))
    if energy is not None:
        order = order[strongest(norms, rows, tokens, energy)[order]]
    distinct, starts = np.unique(tokens[order], return_index=True)
    small: dict[str, NDArray[Any]] = {
        "tokens": distinct.astype(np.int64),
        "offsets": np.append(starts, len(order)).astype(np.int64),
        "rows": rows[order].astype(np.uint32),
        "norms": norms[order],
        "ranks": taken["ranks"][order],
    }
    if "exponents" in taken:
        small["exponents"] = taken["exponents"][order]
    return small, torch.from_numpy(taken["payload"]), order


def strongest(
    norms: NDArray[np.float32], rows: NDArray[np.int64], tokens: NDArray[np.int64], energy: float
) -> NDArray[np.bool_]:
    """Mark the fewest postings that hold a share `energy` of all squared norms; equal norms by row, then token.

    All rows are taken together: by Cauchy-Schwarz a posting changes no score by more than its norm, whatever row it is
    of. Dropped row by row instead, a row of weak postings would keep as many as one of strong ones, at many times the
    bytes.
    """
    order = np.lexsort((tokens, rows, -norms))
    held = np.cumsum(norms[order].astype(np.float64) ** 2)
    kept = np.zeros(len(norms), dtype=np.bool_)
    if len(held):
        kept[order[: int(np.searchsorted(held, energy * held[-1])) + 1]] = True
    return kept


def _joined(blocks: Iterable[Block]) -> dict[str, NDArray[Any]]:
    """Copy blocks as they come into one array a field, each growing by realloc, which moves pages and copies nothing.

    Kept in a list, they would lie scattered among what each pass leaves behind, and pin four times their memory.
    """
    joined: dict[str, NDArray[Any]] = {}
    count = 0
    for block in blocks:
        fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
        arrays = {name: np.asarray(value) for name, value in fields.items() if value is not None}
        for name, array in arrays.items():
            grown = joined.setdefault(name, np.empty((0, *array.shape[1:]), array.dtype))
            if count + len(array) > len(grown):
                grown.resize((max(count + len(array), len(grown) * 5 // 4), *array.shape[1:]), refcheck=False)
            grown[count : count + len(array)] = array
        count += len(block.rows)
    return {name: array[:count] for name, array in joined.items()}


def postings_in_memory(
    gradients: TokenGradients, *, special: Collection[int] = (), max_words: int | None = None
) -> Postings:
    """Make postings of a batch of queries, float32, in memory."""
    block = encode_block(gradients, dtype="float32", special=special, max_words=max_words)
    small, payload, order = in_order([block])
    return Postings(**small, payload=payload[torch.from_numpy(order)], exponents=None)


def _encode(gradients: Float32[Tensor, "p d"], dtype: PostingDtype) -> tuple[Tensor, NDArray[np.int8] | None]:
    if dtype == "int4":
        if gradients.shape[1] % 2:
            raise StoreError(f"int4 stores numbers in pairs; gradients have {gradients.shape[1]} each: take int8.")
        return encode_int4(gradients)
    if dtype == "int8":
        return encode_int8(gradients)
    return encode_half(gradients) if dtype == "float16" else (gradients, None)


def _numbers(payload: Tensor) -> Float32[Tensor, "p d"]:
    """Decode a payload to float32, but for its exponents."""
    return decode_int4(payload) if payload.dtype == torch.uint8 else payload.float()


def _norms(payload: Tensor, exponents: NDArray[np.int8] | None) -> NDArray[np.float32]:
    """Norms of the stored vectors, rounded up past the error of summing, so that they bound every dot product."""
    numbers = _numbers(payload) if payload.dtype in (torch.int8, torch.uint8) else payload
    norms: NDArray[np.float32] = torch.linalg.vector_norm(numbers, dim=1, dtype=torch.float32).numpy()
    if exponents is not None:
        with np.errstate(over="ignore"):  # infinity is refused by whoever asked
            norms = norms * powers(exponents)
    else:
        unsafe = ~((norms > _SMALL) & (norms < _LARGE))  # there the squares underflow to nothing, or overflow
        rows = payload[torch.from_numpy(unsafe)]
        norms[unsafe] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).float().numpy()
    slack = np.float32(1 + (payload.shape[1] / 2 + 8) * 2.0**-24)  # d additions in float32, halved by the root
    with np.errstate(over="ignore"):
        return np.where(norms > 0, np.nextafter(norms * slack, np.float32(np.inf)), np.float32(0))


def _ranks(
    rows: NDArray[np.int64], tokens: NDArray[np.int64], norms: NDArray[np.float32], special: Collection[int]
) -> NDArray[np.uint8]:
    """Rank each posting within its row by descending norm, ties by token; special tokens are not counted."""
    ranks = np.full(len(rows), SPECIAL_RANK, dtype=np.uint8)
    words = np.flatnonzero(~np.isin(tokens, list(special)))
    order = words[np.lexsort((tokens[words], -norms[words], rows[words]))]
    ordered = rows[order]
    begins = np.searchsorted(ordered, ordered)  # where the row of each posting begins
    ranks[order] = np.minimum(np.arange(len(order)) - begins, _LAST_RANK).astype(np.uint8)
    return ranks
