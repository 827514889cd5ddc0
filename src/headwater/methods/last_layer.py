"""What the methods over representations share: scores from what the last layer saw and said of each row.

    score(q, x) = factor(q, x) * sum_parts  weight * sum_k  said_x[k] * < asked_q[k], seen_x >

A part is one checkpoint of one run. `seen` and `said` are made of a row's representation (of its features and errors,
say), `asked` of the query's. All products are taken in float64; only the result is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from headwater.errors import UsageError
from headwater.methods.parts import Contributions, RepresentationBlock, RepresentationPart

Sides = Callable[[RepresentationBlock], tuple[Float64[Tensor, "n j"], Float64[Tensor, "n k"]]]
"""(rows) -> what was seen and what was said of each."""

Factor = Callable[[slice, "slice | Int64[np.ndarray, 'r']"], Float64[np.ndarray, "q r"]]
"""(queries, rows) -> numbers between -1 and 1."""

_CELLS = 1 << 22  # float64 numbers of one piece of the scores: 32 MiB
_FLOOR = 2.0**-149  # float32 has no smaller steps


@dataclass(frozen=True)
class Share:
    """One part's share of the score."""

    part: RepresentationPart
    weight: float
    asked: Float64[Tensor, "queries k j"]
    sides: Sides


@dataclass(frozen=True)
class LastLayer:
    """A scorer (see `Scorer`) of a sum of shares."""

    shares: Sequence[Share]
    factor: Factor | None = None

    def score(self, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Add every share to `out`, which holds zeros, reading the rows once a share."""
        step = max(1, _CELLS // max(len(out), 1))
        for share in self.shares:
            for block in share.part.blocks():
                seen, said = share.sides(block)
                for start in range(0, len(seen), step):
                    values = _products(share.asked, seen[start : start + step], said[start : start + step]).numpy()
                    here = slice(block.start + start, block.start + start + values.shape[1])
                    if self.factor is not None:
                        values *= self.factor(slice(None), here)
                    out[:, here] += values * share.weight

    def rounding(self) -> Float64[np.ndarray, "queries"]:
        """Bound the error of the float32 scores: at most |asked| |said| |seen| of a share, rounded once a share."""
        bound = np.zeros(len(self.shares[0].asked))
        for share in self.shares:
            sizes = torch.linalg.vector_norm(share.asked.flatten(1), dim=1).numpy()
            reach = 0.0
            for block in share.part.blocks():
                seen, said = share.sides(block)
                norms = torch.linalg.vector_norm(seen, dim=1) * torch.linalg.vector_norm(said, dim=1)
                reach = max([reach, *norms.tolist()])
            bound += abs(share.weight) * sizes * reach
        roundings = 2 * len(self.shares) + 1  # to float32, and to add; in float64, next to nothing
        return roundings * (bound * 2.0**-24 + _FLOOR)

    def explain(self, query: int, rows: Int64[np.ndarray, "r"]) -> Contributions:
        """Give a query's scores with `rows`: those of whole texts."""
        return Contributions.whole(rows, self.exact(query, rows))

    def exact(self, query: int, rows: Int64[np.ndarray, "r"]) -> Float64[np.ndarray, "r"]:
        """Return a query's scores with `rows` in float64; a score's bits depend on nothing else that is asked."""
        total = np.zeros(len(rows))
        for share in self.shares:
            asked = share.asked[query]
            for block in share.part.blocks():
                at = np.flatnonzero((rows >= block.start) & (rows < block.start + len(block.features)))
                if not len(at):
                    continue
                seen, said = share.sides(_taken(block, torch.from_numpy(rows[at] - block.start)))
                for k in range(said.shape[1]):
                    # numpy adds up each row by itself, whatever the number of rows and threads.
                    total[at] += share.weight * (seen * asked[k]).numpy().sum(axis=1) * said[:, k].numpy()
        if self.factor is not None:
            total *= self.factor(slice(query, query + 1), rows)[0]
        return total


def with_bias(part: RepresentationPart, block: RepresentationBlock) -> Float64[Tensor, "n j"]:
    """Return the features, and after them a 1 where the layer has a bias: it is a weight like the others."""
    features = block.features.double()
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1) if part.bias else features


def errors_of(block: RepresentationBlock) -> Float64[Tensor, "n c"]:
    """Return dl/d(logits). Raises UsageError where there are no classes."""
    if block.errors is None:
        raise UsageError("this method needs classes: a language model's errors on its vocabulary are not kept.")
    return block.errors.double()


def last_of_each_run(parts: Sequence[RepresentationPart]) -> list[RepresentationPart]:
    """Return the last checkpoint's part of each run, for methods that speak of a finished model."""
    return list({part.run: part for part in parts}.values())


def _products(
    asked: Float64[Tensor, "queries k j"], seen: Float64[Tensor, "n j"], said: Float64[Tensor, "n k"]
) -> Float64[Tensor, "queries n"]:
    total = asked.new_zeros(len(asked), len(seen))
    for k in range(said.shape[1]):
        if bool(asked[:, k].any()):
            total += (asked[:, k] @ seen.T) * said[:, k]
    return total


def _taken(block: RepresentationBlock, at: Int64[Tensor, "r"]) -> RepresentationBlock:
    """Some rows of a block, in the order asked; where they start no longer means anything."""
    logits, errors = (None if of is None else of[at] for of in (block.logits, block.errors))
    return RepresentationBlock(block.start, block.features[at], logits, errors, block.losses[at])
