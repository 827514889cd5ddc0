"""What speaks for a wrong label. Each detector gives one number a row, larger is more suspect.

loss               cross entropy of the given label, by the model that was trained on it
margin             p of the most probable other label - p of the given one, by the same model
knn                share of the 10 nearest rows (cosine of representations) with another label, weighed by cosine
self-influence     how much training on the row moves the row itself (`attribution/self_influence.py`)
opponents-mean     how much the row pushes clean rows from their labels: TracIn-WE, divided by the row's norm;
opponents-rank     of all clean rows the mean score, the mean rank, or the votes of each against the lowest 20%
opponents-vote
confident-learning 1 - p of the given label by models that never saw the row: cleanlab's self-confidence, by the recipe
minilm, words      the same by models of other kinds (see folds.py), where the first is by the recipe
combined           mean of the ranks of these three and self-influence (without an index, of loss): what models of
                   several kinds say that never saw the row, and how hard it pushed the model that saw it. Chosen on
                   SST-2 with 5% flips and on tweets, and fixed before other data were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.stats import rankdata

from headwater.attribution.aggregate import Columns
from headwater.attribution.seen import Seen
from headwater.audit.excess import contradiction
from headwater.audit.opponents import opponents_of

ABOUT = {
    "combined": "mean of the ranks of confident-learning, minilm, words and self-influence (without an index, of loss)",
    "loss": "loss of the given label under the trained model",
    "margin": "how far the trained model puts another label ahead",
    "knn": "share of the 10 nearest rows that carry another label",
    "self-influence": "how much training on the row moves the row itself",
    "opponents-mean": "how much it pushes clean rows from their labels: mean score",
    "opponents-rank": "the same: mean rank",
    "opponents-vote": "the same: votes against the lowest fifth",
    "confident-learning": "how little models that never saw the row believe its label (cleanlab)",
    "minilm": "the same by a frozen MiniLM and a logistic regression",
    "words": "the same by word counts (TF-IDF) and a logistic regression",
}
COMBINED = ("confident-learning", "minilm", "words", "self-influence")
NEIGHBOURS = 10
BANK = 20_000  # rows among which neighbours are sought; more would cost a square of them
_SHARE = 0.2  # of the rows that a clean row votes against
_BLOCK = 512

Scores = Float64[np.ndarray, " rows"]


def neighbours_disagree(
    features: Float32[np.ndarray, "rows d"], targets: Int64[np.ndarray, " rows"], seed: int = 0
) -> Scores:
    """Of each row, the share (by cosine, 0 where it is negative) of its nearest rows with another label.

    They are sought among all rows, or 20,000 that the seed draws.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    count = len(unit)
    bank = np.arange(count)
    if count > BANK:
        bank = np.sort(np.random.default_rng(seed).choice(count, BANK, replace=False))
    k = min(NEIGHBOURS, len(bank) - 1)
    found = np.zeros(count)
    for start in range(0, count if k > 0 else 0, _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit[bank].T
        own = np.arange(start, min(start + _BLOCK, count))
        place = np.searchsorted(bank, own)
        there = (place < len(bank)) & (bank[np.minimum(place, len(bank) - 1)] == own)
        cosines[np.flatnonzero(there), place[there]] = -np.inf
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        weights = np.maximum(np.take_along_axis(cosines, near, axis=1), 0).astype(np.float64)
        other = targets[bank[near]] != targets[own][:, None]
        total = weights.sum(axis=1)
        share = (weights * other).sum(axis=1) / np.where(total > 0, total, 1)
        found[own] = np.where(total > 0, share, other.mean(axis=1))
    return found


def of_model(seen: Seen, targets: Int64[np.ndarray, " rows"], seed: int = 0) -> dict[str, Scores]:
    """The detectors that need no more than the trained model."""
    return {
        "loss": seen.losses,
        "margin": contradiction(seen.probabilities, targets),
        "knn": neighbours_disagree(seen.features, targets, seed),
    }


def of_opponents(scores: Float32[np.ndarray, "queries rows"], labels: Sequence[str | int]) -> dict[str, Scores]:
    """The three ways to hear clean rows; `scores` are those of `index.scores(..., normalize="train")`.

    Every label has an equal say: wrong labels mostly hurt the rare one.
    """
    votes, names = np.zeros(scores.shape[1]), np.asarray([str(label) for label in labels])
    for name in np.unique(names):
        columns = Columns("vote", _SHARE, scores.shape[1])
        columns.add(scores[names == name])
        votes -= columns.result() / (names == name).sum()
    return {
        "opponents-mean": opponents_of(scores, labels, aggregate="unit").harm,
        "opponents-rank": opponents_of(scores, labels, aggregate="rank").harm,
        "opponents-vote": votes / len(np.unique(names)),
    }


def confident_learning(
    probabilities: Float[np.ndarray, "rows classes"], targets: Int64[np.ndarray, " rows"]
) -> tuple[Scores, int]:
    """Score rows by cleanlab's self-confidence; and how many issues cleanlab itself would name."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(targets, probabilities, method="self_confidence")
    there = np.unique(targets)
    if len(there) < 2:
        return np.asarray(1 - quality), 0
    known = probabilities[:, there] / np.maximum(probabilities[:, there].sum(axis=1, keepdims=True), 1e-12)
    issues = find_label_issues(np.searchsorted(there, targets), known, n_jobs=1)
    return np.asarray(1 - quality, dtype=np.float64), int(np.sum(issues))


def combined(found: Mapping[str, Scores]) -> Scores:
    """Mean of the ranks, 0 to 1, of those of `COMBINED` that are there; loss stands in for self-influence.

    Equal scores share their rank.
    """
    names = [name for name in COMBINED if name in found]
    names += [] if "self-influence" in found else ["loss"]
    ranks = [(rankdata(found[name]) - 1) / max(len(found[name]) - 1, 1) for name in names]
    return np.asarray(np.mean(ranks, axis=0))
