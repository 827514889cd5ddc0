"""Did the tray's estimate come true? What the changed rows pushed each test row, beside what their change did to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import spearmanr

from headwater.attribution.index import Index
from headwater.remedies.plan import Plan
from headwater.remedies.proof import Proof
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import NO_TARGET

MOST = 200  # test rows whose estimate is compared with the outcome


@dataclass(frozen=True)
class Estimated:
    """Estimated and real change of loss by test row; `correlation` is Spearman's, None where there is none."""

    method: str
    rows: tuple[int, ...]
    estimates: tuple[float, ...]
    outcomes: tuple[float, ...]
    correlation: float | None

    def places(self) -> list[tuple[int, float, float]]:
        """Return row and place in a square of side 100, the outcome upwards; both axes cross zero at 50."""
        widest = max(map(abs, self.estimates), default=0.0) or 1.0
        highest = max(map(abs, self.outcomes), default=0.0) or 1.0
        points = zip(self.rows, self.estimates, self.outcomes, strict=True)
        return [(row, 50 + 48 * x / widest, 50 - 48 * y / highest) for row, x, y in points]


def foretold(index: Index, proof: Proof, plan: Plan, texts: Corpus) -> Estimated | None:
    """Sum the scores of the rows that the plan changes, for up to MOST of the test rows; `texts` are those.

    A row that is relabelled counts as one that is gone, as in the tray. Of a language model both are told a token, else
    long texts would agree by their length alone. None where the proof is of other rows than `texts`.
    """
    if not proof.moved or texts.name != proof.test or max(proof.moved)[0] >= len(texts):
        return None
    changed = sorted({r.row for r in plan.repairs if r.row is not None and r.action != "keep"})
    moved = dict(proof.moved)
    chosen = sorted(moved)
    if len(chosen) > MOST:
        chosen = sorted(np.random.default_rng(0).choice(chosen, MOST, replace=False).tolist())
    asked = texts.take(chosen)
    labels: list[str | int] = ["" if example.label is None else example.label for example in asked]
    method = index.methods[0].name
    scores = index.scores(asked, labels, method=method, show=False)
    estimates = scores[:, changed].astype(np.float64).sum(axis=1) / _targets(index.run, asked)
    outcomes = np.array([moved[row] for row in chosen])
    known = len(chosen) > 2 and np.ptp(estimates) > 0 and np.ptp(outcomes) > 0
    correlation = float(spearmanr(estimates, outcomes).statistic) if known else None
    return Estimated(method, tuple(chosen), tuple(estimates.tolist()), tuple(outcomes.tolist()), correlation)


def _targets(run: Run, asked: Corpus) -> Float64[np.ndarray, " rows"]:
    """How many targets the loss of each row is summed over: 1, or its target tokens."""
    if getattr(run.task, "reduction", "mean") != "sum":
        return np.ones(len(asked))
    encodings = run.task.encode(run.tokenizer, list(asked))
    return np.array([sum(token != NO_TARGET for token in each.targets or [0]) for each in encodings], dtype=np.float64)
