"""What the methods over layer gradients share: their scores are linear in the query's gradient and in the row's.

    score(q, x) = sum_parts  weight * query_scale[q] * row_scale[x] * < T(q), x >

A part is one checkpoint of one run; T is a linear map of the method: nothing for TracIn, an inverse curvature for
influence functions. So streaming, rounding and words are written once, here.

Words: with q = rest + sum over places t of q_t, and x likewise, the value of a pair of places is
weight * query_scale * row_scale * < T(q_t), x_s >. What the rests pushed, and what storing rounded, is an entry of its
own, so that a row's values add up to its score exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from headwater.methods.parts import Contributions, LayerPart, PlaceVectors
from headwater.progress import stage

Transform = Callable[[Float64[Tensor, "m k"]], Float64[Tensor, "m k"]]
"""A linear map of gradients, row by row."""

_COLUMNS = 512  # components in one product: float32 rounding grows with the length of a sum, so long sums are cut
_ROWS = 8  # rows whose places are computed at a time: a row's are [tokens, k]
_TAKEN = 256  # rows or queries taken to float64 at a time
_TINY = 1e-12  # a float32 norm below this may have lost its squares to underflow


@dataclass(frozen=True)
class Term:
    """One part's share of the score."""

    part: LayerPart
    weight: float
    transform: Transform | None = None
    """None: the identity."""
    query_scale: Float64[np.ndarray, "queries"] | None = None
    """None: 1."""
    row_scale: Float64[np.ndarray, "rows"] | None = None
    """None: 1."""
    reach: float | None = None
    """The largest row_scale[x] * |x| of any row, where the method knows it; else it is measured."""

    def asked(self, vectors: Float32[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """Return T of gradients on the query's side, in float64."""
        exact = vectors.double()
        return exact if self.transform is None else self.transform(exact)

    def factors(self) -> Float64[np.ndarray, "queries"]:
        """Return what multiplies each query's products: weight and scale."""
        scale = np.ones(len(self.part.queries)) if self.query_scale is None else self.query_scale
        return self.weight * scale

    def scales(self, rows: slice | Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return what multiplies each row's products."""
        scale = np.ones(self.part.rows) if self.row_scale is None else self.row_scale
        return scale[rows]


@dataclass(frozen=True)
class Bilinear:
    """A scorer (see `Scorer`) of a sum of terms."""

    terms: Sequence[Term]
    _sizes: dict[int, Float64[np.ndarray, "queries"]] = field(default_factory=dict)
    _reaches: dict[int, float] = field(default_factory=dict)

    def score(self, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Add every term to `out`, which holds zeros, reading the rows once a term."""
        for number, term in enumerate(self.terms):
            unit, sizes = _units(term)
            factors = (term.factors() * sizes).astype(np.float32)
            reach = 0.0
            for start, block in term.part.blocks():
                here = slice(start, start + len(block))
                scales = term.scales(here)
                products = _products(unit, block).numpy()  # [queries, n]
                products *= scales.astype(np.float32)
                products *= factors[:, None]
                out[:, here] += products
                if term.reach is None and len(block):
                    reach = max(reach, float((norms(block) * np.abs(scales)).max()))
            self._sizes[number], self._reaches[number] = sizes, reach

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Bound the error of the float32 scores: at most |q| |x| of each term (Cauchy-Schwarz) times the roundings."""
        bound = np.zeros(len(self.terms[0].part.queries))
        for number, term in enumerate(self.terms):
            columns = term.part.queries.shape[1]
            roundings = min(columns, _COLUMNS) + columns // _COLUMNS + len(self.terms) + 16  # 16: scales, unit vectors
            sizes = self._sizes[number] if number in self._sizes else _units(term)[1]
            bound += roundings * 2.0**-24 * np.abs(term.factors()) * sizes * self._reach(number)
        return bound * 1.01  # roundings of roundings, and of the norms

    def _reach(self, number: int) -> float:
        """Return the largest scaled norm of a row of a term: known, measured with the scores, or measured now."""
        term = self.terms[number]
        if term.reach is not None:
            return term.reach
        if number not in self._reaches:
            self._reaches[number] = float((row_norms(term.part) * np.abs(term.scales(slice(None)))).max(initial=0.0))
        return self._reaches[number]

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows` in float64, from stored gradients alone.

        A score's bits depend on nothing else that is asked.
        """
        total = np.zeros(len(rows))
        for term in self.terms:
            asked = term.asked(term.part.queries[query : query + 1])
            for start in range(0, len(rows), _TAKEN):
                here = slice(start, start + _TAKEN)
                # numpy adds up each row by itself, whatever the number of rows and threads.
                products = (term.part.take(rows[here]).double() * asked).numpy().sum(axis=1)
                total[here] += products * term.scales(rows[here]) * term.factors()[query]
        return total

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Take a query's scores with `rows` apart into pairs of places, in float64 and in a fixed order."""
        pieces = [Contributions.whole(np.zeros(0, dtype=np.int64), np.zeros(0))]
        for term in self.terms:
            at = term.part.checkpoint.name
            stage(f"passing the text through {at} again, for its words")
            theirs = term.part.query_places(query)
            asked = term.asked(theirs.vectors) * float(term.factors()[query])  # [s, k]
            for start in range(0, len(rows), _ROWS):
                some = rows[start : start + _ROWS]
                stage(f"passing the rows shown through {at} again, for their words", start, len(rows), "rows")
                for row, mine in zip(some, term.part.row_places(some), strict=True):
                    scale = float(term.scales(np.array([row]))[0])
                    values = (mine.vectors.double() @ asked.T).numpy() * scale  # [t, s]
                    pieces.append(_pairs(int(row), mine, theirs, values))
        return settle(Contributions.joined(pieces), rows, self.exact(query, rows))


def _units(term: Term) -> tuple[Float32[Tensor, "queries k"], Float64[np.ndarray, "queries"]]:
    """Return T of the queries as unit vectors, and their sizes: tiny gradients' products would vanish in float32."""
    queries = term.part.queries
    unit, sizes = torch.zeros_like(queries), np.zeros(len(queries))
    for start in range(0, len(queries), _TAKEN):
        here = slice(start, start + _TAKEN)
        asked = term.asked(queries[here])
        size = torch.linalg.vector_norm(asked, dim=1, keepdim=True)
        unit[here] = torch.where(size > 0, asked / size, 0.0).float()
        sizes[here] = size[:, 0].numpy()
    return unit, sizes


def _products(queries: Float32[Tensor, "q k"], block: Float32[Tensor, "n k"]) -> Float32[Tensor, "q n"]:
    """Multiply, a stretch of columns at a time (see _COLUMNS)."""
    total = queries[:, :_COLUMNS] @ block[:, :_COLUMNS].T
    for start in range(_COLUMNS, queries.shape[1], _COLUMNS):
        total.addmm_(queries[:, start : start + _COLUMNS], block[:, start : start + _COLUMNS].T)
    return total


def _pairs(row: int, mine: PlaceVectors, theirs: PlaceVectors, values: Float64[np.ndarray, "t s"]) -> Contributions:
    """One entry for each pair of places that contributes anything."""
    at, asked = np.nonzero(values)
    return Contributions(
        np.full(len(at), row, dtype=np.int64),
        mine.tokens[at].astype(np.int64),
        theirs.tokens[asked].astype(np.int64),
        theirs.places[asked].astype(np.int64),
        np.full(len(at), np.nan),
        values[at, asked],
        mine.places[at].astype(np.int64),
    )


def settle(found: Contributions, rows: Int64[np.ndarray, "r"], scores: Float64[np.ndarray, "r"]) -> Contributions:
    """Add entries of whole texts, so that the values of each row add up to its score, to the last bit.

    The first entry is what words do not see; another one may be needed for what adding it up rounded.
    """
    for _ in range(3):
        missing = scores - found.scores(rows)
        at = np.flatnonzero(missing)
        if len(at) == 0:
            break
        found = Contributions.joined([found, Contributions.whole(rows[at], missing[at])])
    return found


def norms(vectors: Float32[Tensor, "n k"]) -> Float64[np.ndarray, "n"]:
    """Return the Euclidean norm of each row, at float32's precision, without loss where gradients are tiny."""
    found: Float64[np.ndarray, "n"] = torch.linalg.vector_norm(vectors, dim=1).double().numpy()
    tiny = np.flatnonzero(found < _TINY)
    if len(tiny):
        found[tiny] = torch.linalg.vector_norm(vectors[torch.from_numpy(tiny)].double(), dim=1).numpy()
    return found


def row_norms(part: LayerPart) -> Float64[np.ndarray, "rows"]:
    """Return the norm of every training row's gradient, in one pass over them; kept for the next question."""

    def measure() -> Float64[np.ndarray, "rows"]:
        found = np.zeros(part.rows)
        for start, block in part.blocks():
            found[start : start + len(block)] = norms(block)
        return found

    return part.once("row norms", measure)


def inverse(sizes: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return 1 / size, and 0 where the size is 0: what pushed nothing scores 0."""
    found: Float64[np.ndarray, "n"] = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    return found


def mean_weights(parts: Sequence[LayerPart]) -> list[float]:
    """Return the weights of the parts over their sum, so that a weighted sum of scores is a weighted mean."""
    total = sum(part.weight for part in parts)
    return [part.weight / total if total else 1.0 / len(parts) for part in parts]
