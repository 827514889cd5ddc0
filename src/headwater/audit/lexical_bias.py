"""Words that give a label away: z-statistics of (word, label), in the data; and a permutation test, in the model.

    z(u, l) = (p(l | u) - p(l)) / sqrt( p(l) (1 - p(l)) * sum q^2 / (sum q)^2 ),    sums over rows that hold u

q are the rows' weights; with q = 1 the last factor is 1 / n_u (Gardner et al. 2021, Competency Problems; there p(l) is
1 / classes, here the label's share, so that a rare label makes no word suspect). Features are words and pairs of
neighbouring words, once a row. Biased: beyond Bonferroni's threshold at 1% over all (feature, label).

The model's habit (after Serrano et al. 2023, Stubborn Lexical Bias in Data and Models): the mean probability of l on
held-out rows with u less that on rows without u, against the same with the probabilities shuffled among rows of one
true label; Benjamini-Hochberg at 5%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, norm

ALPHA = 0.01
LEAST_ROWS = 20
SHUFFLES = 1000
WORD = r"(?u)\b\w+\b"


@dataclass(frozen=True)
class Features:
    """Which row holds which word or pair of words: `held` [rows, features], 0 or 1."""

    names: tuple[str, ...]
    held: csr_array


@dataclass(frozen=True)
class Bias:
    """z of every (feature, label), [features, labels], and the threshold beyond which it is no chance."""

    z: Float64[np.ndarray, "features labels"]
    threshold: float

    @property
    def biased(self) -> int:
        """How many (feature, label) are beyond the threshold."""
        return int((np.abs(self.z) > self.threshold).sum())

    @property
    def discovered(self) -> int:
        """How many are by Benjamini-Hochberg at 1%: more, of which 1% are expected to be chance."""
        if not self.z.size:
            return 0
        return int((false_discovery_control(2 * norm.sf(np.abs(self.z)).ravel()) < ALPHA).sum())


def features_of(texts: Sequence[str], *, pairs: bool = True, least_rows: int = LEAST_ROWS) -> Features:
    """Words, and pairs of neighbouring words, of at least so many rows; in lower case, in the order of the alphabet."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        token_pattern=WORD, ngram_range=(1, 2 if pairs else 1), binary=True, min_df=least_rows, dtype=np.float64
    )
    try:
        held = counter.fit_transform(texts)
    except ValueError:  # no word at all, or none in so many rows
        return Features((), csr_array((len(texts), 0)))
    return Features(tuple(str(name) for name in counter.get_feature_names_out()), csr_array(held))


def bias_of(
    features: Features, targets: Int[np.ndarray, " rows"], weights: Float[np.ndarray, " rows"] | None = None
) -> Bias:
    """z of every feature and label. A label that no row carries has z 0."""
    held, count = features.held, len(targets)
    q = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    labels = one_hot(targets)
    shares = (q @ labels) / q.sum()
    mass = held.T @ q
    told = (held.T @ (q[:, None] * labels)) / np.where(mass > 0, mass, 1)[:, None]
    squares = held.T @ (q * q)
    spread = (
        np.sqrt(np.maximum(shares * (1 - shares), 0))[None] * (np.sqrt(squares) / np.where(mass > 0, mass, 1))[:, None]
    )
    z = np.where(spread > 0, (told - shares[None]) / np.where(spread > 0, spread, 1), 0.0)
    tests = max(z.size, 1)
    return Bias(np.asarray(z), float(norm.isf(ALPHA / 2 / tests)))


def one_hot(targets: Int[np.ndarray, " rows"]) -> Float64[np.ndarray, "rows labels"]:
    """1 where a row carries a label."""
    return np.asarray(np.eye(int(np.max(targets)) + 1)[targets])


def model_habits(
    held: csr_array,
    wanted: Sequence[tuple[int, int]],
    probabilities: Float[np.ndarray, "rows labels"],
    truth: Int[np.ndarray, " rows"],
    *,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, " wanted"], Float64[np.ndarray, " wanted"]]:
    """Of each (feature, label) the habit, and its p-value by Benjamini-Hochberg. A feature of no row, or all: 0, 1."""
    generator = np.random.default_rng(seed)
    count = len(truth)
    presence = np.asarray(held.todense())
    orders = np.tile(np.arange(count), (SHUFFLES, 1))
    for label in np.unique(truth):
        rows = np.flatnonzero(truth == label)
        orders[:, rows] = generator.permuted(np.tile(rows, (SHUFFLES, 1)), axis=1)
    habits, chances = np.zeros(len(wanted)), np.ones(len(wanted))
    for place, (feature, label) in enumerate(wanted):
        with_it = presence[:, feature]
        rows = with_it.sum()
        if not 0 < rows < count:
            continue
        contrast = with_it / rows - (1 - with_it) / (count - rows)
        habits[place] = contrast @ probabilities[:, label]
        null = probabilities[:, label][orders] @ contrast
        middle = null.mean()
        beyond = np.abs(null - middle) >= abs(habits[place] - middle) - 1e-12
        chances[place] = (1 + beyond.sum()) / (SHUFFLES + 1)
    return habits, np.asarray(false_discovery_control(chances)) if len(wanted) else chances
