"""Dot products of per-example gradients of two batches, without forming the gradients where that is cheaper.

    <G, G'> = sum_{t,s} (left_t . left'_s) (right_t . right'_s)          "ghost": Lee and Kifer 2020, Li et al. 2021

Cost rule, for linear layers. Multiply-adds of the two ways, with T and S the places of all calls of the layer:

    ghost    n m T S (o + i)                      dense    (n T + m S) o i + n m o i

and the lower one is taken; the dense way forms at most `most_bytes` at a time. Two sets of lookups meet only in the
tokens that both hold: their gradients are summed by token and multiplied. Vectors are always dense.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headwater.errors import UsageError
from headwater.gradients.layers.factors import CHUNK_BYTES, Dense, LayerFactors, Outer, Part, Plain, Rows


def dot_products(
    one: LayerFactors, other: LayerFactors, *, way: str | None = None, most_bytes: int = CHUNK_BYTES
) -> Float[Tensor, "n m"]:
    """Return the dot product of every example's gradient with every other's; `way`: ghost, dense, None: the cheaper.

    Raises UsageError where the two are of different layers.
    """
    if one.layer.name != other.layer.name:
        raise UsageError(f"gradients of {one.layer.name} and {other.layer.name} have no dot product.")
    if way not in (None, "ghost", "dense"):
        raise UsageError(f"way must be 'ghost', 'dense' or None; it is {way!r}.")
    if (way or _cheaper(one, other)) == "dense":
        return _dense(one, other, most_bytes)
    products = [_meet(left, right, most_bytes) for left in one.parts for right in other.parts]
    return torch.stack(products).sum(dim=0)


def squared_norms(factors: LayerFactors, *, most_bytes: int = CHUNK_BYTES) -> Float[Tensor, "n"]:
    """Return <G, G> of every example: the diagonal of `dot_products`, at the cost of the diagonal alone.

    Ghost costs T^2 (o + i) an example, dense T o i: the rule is the same.
    """
    parts, layer = factors.parts, factors.layer
    if layer.matrix is None or any(isinstance(part, Plain | Dense) for part in parts):
        return torch.cat([piece.dense().pow(2).sum(dim=1) for piece in factors.chunks(most_bytes)])
    places = sum(_places(part) for part in parts)
    if all(isinstance(part, Outer) for part in parts) and places * sum(layer.matrix) > math.prod(layer.matrix):
        return torch.cat([piece.dense().pow(2).sum(dim=1) for piece in factors.chunks(most_bytes)])
    return torch.stack([_meet_itself(one, other) for one in parts for other in parts]).sum(dim=0)


def _meet_itself(one: Part, other: Part) -> Float[Tensor, "n"]:
    """Dot product of what two calls pushed of the same example: Gram matrices [n, t, s] over its own places."""
    assert isinstance(one, Outer | Rows) and isinstance(other, Outer | Rows)
    right = torch.bmm(one.right, other.right.mT)
    if isinstance(one, Outer) and isinstance(other, Outer):
        right = right + 1 if one.ones and other.ones else right
        left = torch.bmm(one.left, other.left.mT)
    elif isinstance(one, Rows) and isinstance(other, Rows):
        left = (one.ids[:, :, None] == other.ids[:, None, :]).to(right.dtype)
    elif isinstance(one, Rows) and isinstance(other, Outer):
        left = other.left.mT.gather(1, one.ids[:, :, None].expand(right.shape))
    else:
        return _meet_itself(other, one)
    return (left * right).sum(dim=(1, 2))


def _places(part: Part) -> int:
    return part.right.shape[1] if isinstance(part, Outer | Rows) else 1


def _cheaper(one: LayerFactors, other: LayerFactors) -> str:
    parts = (*one.parts, *other.parts)
    if not all(isinstance(part, Outer) for part in parts):
        return "ghost"  # lookups never gain by 30,000 dense rows; a vector is dense either way
    assert one.layer.matrix is not None
    outputs, inputs = one.layer.matrix
    n, m = one.examples, other.examples
    here, there = sum(_places(part) for part in one.parts), sum(_places(part) for part in other.parts)
    ghost = n * m * here * there * (outputs + inputs)
    dense = (n * here + m * there + n * m) * outputs * inputs
    return "ghost" if ghost <= dense else "dense"


def _dense(one: LayerFactors, other: LayerFactors, most_bytes: int) -> Float[Tensor, "n m"]:
    rows = []
    for left in one.chunks(most_bytes // 2):
        formed = left.dense()
        rows.append(torch.cat([formed @ right.dense().T for right in other.chunks(most_bytes // 2)], dim=1))
    return torch.cat(rows)


def _meet(one: Part, other: Part, most_bytes: int) -> Float[Tensor, "n m"]:
    if isinstance(one, Outer) and isinstance(other, Outer):
        return _outer_outer(one, other, most_bytes)
    if isinstance(one, Rows) and isinstance(other, Rows):
        return _rows_rows(one, other, most_bytes)
    if isinstance(one, Rows) and isinstance(other, Outer):
        return _rows_outer(one, other)
    if isinstance(one, Outer) and isinstance(other, Rows):
        return _rows_outer(other, one).T
    if isinstance(one, Plain | Dense):
        return one.dense().flatten(1) @ other.dense().flatten(1).T
    return _meet(other, one, most_bytes).T


def _outer_outer(one: Outer, other: Outer, most_bytes: int) -> Float[Tensor, "n m"]:
    """Two Gram matrices over places, multiplied entry by entry and summed; some examples of `one` at a time."""
    n, t = one.left.shape[:2]
    m, s = other.left.shape[:2]
    step = max(1, most_bytes // max(1, 8 * t * m * s))
    found = []
    for start in range(0, n, step):
        part = one.rows(slice(start, start + step))
        right = part.right.flatten(0, 1) @ other.right.flatten(0, 1).T  # [n t, m s]
        if one.ones and other.ones:
            right += 1
        right *= part.left.flatten(0, 1) @ other.left.flatten(0, 1).T
        found.append(right.reshape(len(part.left), t, m, s).sum(dim=(1, 3)))
    return torch.cat(found)


def _rows_rows(one: Rows, other: Rows, most_bytes: int) -> Float[Tensor, "n m"]:
    """Sum by token what each example pushed, over the tokens that both sides hold, some tokens at a time."""
    shared = _intersection(one.ids, other.ids)
    n, m, width = len(one.ids), len(other.ids), one.right.shape[2]
    total = one.right.new_zeros(n, m)
    step = max(1, most_bytes // max(1, one.right.element_size() * (n + m) * width))
    for start in range(0, len(shared), step):
        tokens = shared[start : start + step]
        total += _by_token(one, tokens).flatten(1) @ _by_token(other, tokens).flatten(1).T
    return total


def _intersection(one: Int64[Tensor, "n t"], other: Int64[Tensor, "m s"]) -> Int64[Tensor, "u"]:
    """Sorted token ids that occur on both sides."""
    both = torch.cat([torch.unique(one), torch.unique(other)])
    tokens, counts = torch.unique(both, return_counts=True)
    shared: Tensor = tokens[counts == 2]
    return shared


def _by_token(part: Rows, tokens: Int64[Tensor, "u"]) -> Float[Tensor, "n u i"]:
    """Gradients of these tokens, summed over the places of each example."""
    at = torch.searchsorted(tokens, part.ids).clamp(max=len(tokens) - 1)
    example, place = (tokens[at] == part.ids).nonzero(as_tuple=True)
    out = part.right.new_zeros(len(part.ids), len(tokens), part.right.shape[2])
    return out.index_put_((example, at[example, place]), part.right[example, place], accumulate=True)


def _rows_outer(one: Rows, other: Outer) -> Float[Tensor, "n m"]:
    """The cross term of tied weights: sum_{t,s} left'_s[id_t] (right_t . right'_s)."""
    found = []
    for at in range(len(one.ids)):
        pushed = other.left[:, :, one.ids[at]]  # [m, s, t]
        met = torch.einsum("td,msd->mst", one.right[at], other.right)
        found.append((pushed * met).sum(dim=(1, 2)))
    return torch.stack(found)
