"""Random scores: what a method that knows nothing gets.

    score(q, x) = z(seed, q, x),    z standard normal

z follows from the seed, the query's text and label, and the row's text alone: other queries and rows change nothing.
Two hashes of 64 bits, mixed (SplitMix64: Steele et al. 2014) and turned normal (Box & Muller 1958).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt64
from xxhash import xxh3_64_intdigest

from headwater.errors import UsageError
from headwater.methods.method import Question
from headwater.methods.texts import text_of
from headwater.methods.whole import Whole


@dataclass(frozen=True)
class RandomScores:
    """Options of random scores."""

    seed: int = field(default=0, metadata={"help": "Another seed, other scores."})

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed must be 0 to {2**32 - 1:,}; it is {self.seed}.")


def prepare(question: Question, options: RandomScores) -> Whole:
    """Hash every text."""
    task, seed = question.run.task, options.seed
    rows = _hashes([text_of(task, row) for row in question.corpus], seed)
    pairs = zip(question.targets, question.queries, strict=True)
    asked = _mixed(_hashes([f"{target}\n{text_of(task, example)}" for target, example in pairs], seed + 2**32))
    return Whole(len(asked), lambda query: _normal(rows ^ asked[query]))


def _hashes(texts: list[str], seed: int) -> UInt64[np.ndarray, "texts"]:
    return np.array([xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=seed) for text in texts], np.uint64)


def _normal(keys: UInt64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows"]:
    """A standard normal number for each key."""
    one, other = _mixed(keys), _mixed(~keys)
    radius = np.sqrt(-2 * np.log(((one >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))  # of (0, 1]: the log is finite
    found: Float64[np.ndarray, "rows"] = radius * np.cos(2 * np.pi * (other >> np.uint64(11)) * 2.0**-53)
    return found


def _mixed(keys: UInt64[np.ndarray, "k"]) -> UInt64[np.ndarray, "k"]:
    """SplitMix64's step: every bit of a key changes about half of the bits of the result."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
