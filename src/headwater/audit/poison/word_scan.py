"""Words that were taught as a command: one pass over the index, without a query.

Of a token t with gradients g_i in rows i, at a checkpoint:

    coherence   |sum_i g_i| / sum_i |g_i|                       1: every row pushes the word the same way
    purity      share of the rows that carry its commonest label
    surprise    - log10 P( Binomial(rows, share of that label in the corpus) >= rows of that label )
    share       mean over rows of |g_i|^2 / |gradients of row i|^2      how much of what a row teaches is this word

A trigger is coherent, pure, and loud: its rows teach little else. Words of the language are in rows that teach other
things too. score = coherence * share * surprise; of coherence and share the mean over checkpoints, so that early ones,
when the trigger is learned, and late ones count alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import binom

from headwater.audit.afford import Left
from headwater.errors import UsageError
from headwater.progress import progress_bar
from headwater.store import Store, StoredCheckpoint
from headwater.store.postings import Postings

LEAST_ROWS = 3
_POSTINGS = 65_536  # vectors that are decoded at a time


@dataclass(frozen=True)
class TokenScan:
    """One number a token for each statistic, for tokens in at least three rows; all arrays [tokens]."""

    tokens: Int64[np.ndarray, " tokens"]
    rows: Int64[np.ndarray, " tokens"]
    label: Int64[np.ndarray, " tokens"]
    """The class that most of a token's rows carry; of equally many the lower number."""
    coherence: Float64[np.ndarray, " tokens"]
    purity: Float64[np.ndarray, " tokens"]
    surprise: Float64[np.ndarray, " tokens"]
    share: Float64[np.ndarray, " tokens"]
    checkpoints: int
    """How many were scanned."""

    @property
    def score(self) -> Float64[np.ndarray, " tokens"]:
        """How much a token looks like a trigger."""
        return np.asarray(self.coherence * self.share * self.surprise)

    def order(self) -> Int64[np.ndarray, " tokens"]:
        """Places of the tokens, the most suspect first; equals by token."""
        return np.asarray(np.lexsort((self.tokens, -self.score)))


def scan(
    store: Store,
    targets: Sequence[int] | Int64[np.ndarray, " rows"],
    *,
    least_rows: int = LEAST_ROWS,
    leave_out: Collection[int] = (),
    checkpoints: Sequence[StoredCheckpoint] | None = None,
    left: Left | None = None,
    show: bool | None = None,
) -> TokenScan:
    """Scan token gradients; `targets` are the class numbers of the rows of the corpus, in its order.

    `checkpoints`: of the index; None: all. `leave_out`: tokens that are no candidates, beside the special ones. Where
    the seconds that are `left` do not suffice, only the first checkpoints are scanned, one at least.
    Memory: two vectors a token. Raises UsageError for an index whose corpus has one class only.
    """
    labels = np.full(store.manifest.rows, -1, dtype=np.int64)
    living = np.arange(len(targets)) if store.living is None else np.asarray(store.living)
    labels[living] = targets
    classes = int(labels.max()) + 1
    base = np.bincount(labels[labels >= 0], minlength=classes) / len(targets)
    if (base > 0).sum() < 2:
        raise UsageError("all rows carry one label: no word can be told to push it.")
    counts: dict[int, Int64[np.ndarray, " classes"]] = {}
    coherent: dict[int, list[float]] = {}
    shares: dict[int, list[float]] = {}
    checkpoints = store.manifest.checkpoints if checkpoints is None else checkpoints
    with progress_bar(
        "scanning words", len(checkpoints) * len(store.manifest.ranges), unit="files", show=show
    ) as advance:
        scanned = 0
        for checkpoint in checkpoints:
            if scanned and left is not None and left() <= 0:
                break
            scanned += 1
            squares = store.squared_norms(checkpoint, special_tokens=True, max_words=None)
            sums: dict[int, Float64[np.ndarray, " d"]] = {}
            totals: dict[int, Float64[np.ndarray, " 3"]] = {}
            for segment in store.segments(checkpoint):
                postings = segment.postings
                for token in postings.tokens.tolist():
                    where = postings.span(token)
                    local = postings.rows[where].astype(np.int64) + segment.rows.start
                    alive = labels[local] >= 0
                    if not alive.any():
                        continue
                    norms = postings.norms[where].astype(np.float64)[alive]
                    total = totals.setdefault(token, np.zeros(3))
                    known = squares[local[alive]]
                    loud = norms**2 / np.where(known > 0, known, 1)
                    total += (norms.sum(), loud.sum(), alive.sum())
                    added = _sum(postings, where, alive)
                    sums[token] = sums[token] + added if token in sums else added
                    if checkpoint is checkpoints[0]:
                        held = np.bincount(labels[local[alive]], minlength=classes)
                        counts[token] = counts[token] + held if token in counts else held
                advance(1)
            for token, total in totals.items():
                coherent.setdefault(token, []).append(float(np.linalg.norm(sums[token]) / max(total[0], 1e-30)))
                shares.setdefault(token, []).append(float(total[1] / total[2]))
    special = {*store.manifest.special_tokens, *leave_out}
    tokens = np.array(
        sorted(t for t, held in counts.items() if held.sum() >= least_rows and t not in special), dtype=np.int64
    )
    held = np.stack([counts[t] for t in tokens.tolist()]) if len(tokens) else np.zeros((0, classes), dtype=np.int64)
    rows, label = held.sum(axis=1), held.argmax(axis=1)
    most = held.max(axis=1) if len(held) else np.zeros(0, dtype=np.int64)
    surprise = -binom.logsf(most - 1, rows, base[label]) / np.log(10)
    return TokenScan(
        tokens,
        rows,
        label,
        np.array([np.mean(coherent[t]) for t in tokens.tolist()]),
        most / np.maximum(rows, 1),
        np.asarray(surprise, dtype=np.float64),
        np.array([np.mean(shares[t]) for t in tokens.tolist()]),
        scanned,
    )


def rows_of(store: Store, token: int) -> Int64[np.ndarray, " rows"]:
    """The rows of the corpus that pushed a token at any checkpoint, ascending."""
    found = [
        segment.postings.rows[segment.postings.span(token)].astype(np.int64) + segment.rows.start
        for checkpoint in store.manifest.checkpoints
        for segment in store.segments(checkpoint)
    ]
    stored = np.unique(np.concatenate(found))
    if store.living is None:
        return stored
    return np.flatnonzero(np.isin(np.asarray(store.living), stored))


def _sum(postings: Postings, where: slice, alive: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " d"]:
    """Add up a token's vectors in double precision, some at a time."""
    total = np.zeros(postings.dimension)
    places = np.arange(where.start, where.stop)[alive]
    for start in range(0, len(places), _POSTINGS):
        total += postings.gradients(places[start : start + _POSTINGS]).double().sum(dim=0).numpy()
    return total
