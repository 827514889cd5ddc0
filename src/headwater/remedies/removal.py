"""The proof of a removal: train again without the suspected rows, and without as many random ones.

Same beginning, same arguments, same seeds; only the rows differ. What is reported is what happened: the words of the
verdict follow from a sign test over test rows, and "no clear difference" and "harmful" are among them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from headwater.errors import DataError, UsageError
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.training import Predictions, predict, retrain

SIGNIFICANT = 0.05  # two-sided p below which a difference in accuracy is called one


@dataclass(frozen=True)
class QueryOutcome:
    """One query under one arm; probabilities are means over the seeds."""

    text: str
    label: str
    probability: float
    """Of the true label."""
    predicted: tuple[str, ...]
    """One a seed."""

    @property
    def right(self) -> bool:
        """Whether more than half of the seeds predict the true label."""
        return 2 * sum(label == self.label for label in self.predicted) > len(self.predicted)


@dataclass(frozen=True)
class Arm:
    """One way to train: what was left out, and what came of it."""

    name: str
    removed: tuple[int, ...]
    accuracies: tuple[float, ...]
    """On the test rows, one a seed."""
    queries: tuple[QueryOutcome, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))


@dataclass(frozen=True)
class Comparison:
    """Test rows on which two arms differ: a sign test, exact, two-sided, over rows (seeds of a row count once)."""

    gained: int
    """Rows that the first arm gets right more often than the second."""
    lost: int
    p: float

    @property
    def word(self) -> str:
        """Return `better`, `worse` or `no clear difference`."""
        if self.p >= SIGNIFICANT:
            return "no clear difference"
        return "better" if self.gained > self.lost else "worse"


@dataclass(frozen=True)
class RemovalTrial:
    """Three arms, same seeds: `untouched`, `repaired` (without the worst rows), `random` (without as many others)."""

    untouched: Arm
    repaired: Arm
    random: Arm
    seeds: tuple[int, ...]
    control_seed: int
    test_rows: int
    against_untouched: Comparison
    """The repaired arm against the untouched one, on test rows."""
    against_random: Comparison

    @property
    def arms(self) -> tuple[Arm, Arm, Arm]:
        """Return the arms in the order in which they are told."""
        return self.untouched, self.repaired, self.random

    @property
    def verdict(self) -> str:
        """Say what the test rows say of the removal: `helped`, `harmful`, or neither."""
        before, chance = self.against_untouched.word, self.against_random.word
        if before == "worse":
            return "harmful"
        if before == "better" and chance == "better":
            return "helped"
        if before == "better":
            return "helped, but not clearly more than removing random rows"
        return "no clear difference"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        arms = {
            arm.name: asdict(arm)
            | {"accuracy": arm.accuracy, "queries": [asdict(q) | {"right": q.right} for q in arm.queries]}
            for arm in self.arms
        }
        compared = {
            name: asdict(comparison) | {"word": comparison.word}
            for name, comparison in (("untouched", self.against_untouched), ("random", self.against_random))
        }
        return {
            "arms": arms,
            "repaired_against": compared,
            "verdict": self.verdict,
            "seeds": list(self.seeds),
            "control_seed": self.control_seed,
            "test_rows": self.test_rows,
        }


def removal_trial(
    run: Run,
    worst_rows: Sequence[int],
    *,
    queries: Corpus,
    test: Corpus,
    seeds: Sequence[int] | None = None,
    control_seed: int = 0,
    show: bool | None = None,
) -> RemovalTrial:
    """Retrain without `worst_rows`, and without a random set with as many rows of each label.

    `queries` and `test` need labels: the true ones. `seeds` None is the run's own, whose untouched arm is the run's
    last checkpoint as it stands; other seeds train that arm too. More seeds tell repair from luck.

    Raises RunError where the run has no recipe, UsageError for rows that are not there or none, DataError where the
    removal would leave a label without rows.
    """
    recipe = run.need_recipe()
    seeds = (recipe.seed,) if seeds is None else tuple(seeds)
    worst = _checked(run, worst_rows)
    control = random_rows_like(run.corpus, worst, seed=control_seed)

    def grade(name: str, removed: Sequence[int], train: Callable[[int], PreTrainedModel]) -> _Graded:
        graded = []
        for seed in seeds:
            model = train(seed)
            graded.append(tuple(predict(model, run.tokenizer, run.task, rows, show=show) for rows in (queries, test)))
        return _Graded(name, tuple(removed), [g[0] for g in graded], [g[1] for g in graded])

    def without(rows: Sequence[int], title: str) -> Callable[[int], PreTrainedModel]:
        kept = run.corpus.without(rows)
        return lambda seed: retrain(run, corpus=kept, seed=seed, title=title, show=show)

    def untouched(seed: int) -> PreTrainedModel:
        if seed == recipe.seed:
            return run.checkpoints[-1].load()
        return retrain(run, seed=seed, title="retraining on all rows", show=show)

    before = grade("untouched", (), untouched)
    repaired = grade("repaired", worst, without(worst, "retraining without the worst rows"))
    chance = grade("random", control, without(control, "retraining without random rows"))
    return RemovalTrial(
        untouched=before.arm(queries),
        repaired=repaired.arm(queries),
        random=chance.arm(queries),
        seeds=seeds,
        control_seed=control_seed,
        test_rows=len(test),
        against_untouched=compare(repaired.correct, before.correct),
        against_random=compare(repaired.correct, chance.correct),
    )


def random_rows_like(corpus: Corpus, rows: Sequence[int], *, seed: int) -> tuple[int, ...]:
    """Draw as many rows of each label as `rows` has, from all rows of the corpus; ascending."""
    labels = [example.label for example in corpus]
    wanted = Counter(labels[row] for row in rows)
    generator = np.random.default_rng(seed)
    drawn: list[int] = []
    for label in sorted(wanted, key=str):
        pool = [row for row, given in enumerate(labels) if given == label]
        drawn += generator.choice(pool, wanted[label], replace=False).tolist()
    return tuple(sorted(drawn))


def compare(one: Float[np.ndarray, " rows"], other: Float[np.ndarray, " rows"]) -> Comparison:
    """Compare how often each row is right (mean over seeds) under two arms, by an exact sign test."""
    gained, lost = int((one > other).sum()), int((one < other).sum())
    differ, most = gained + lost, max(gained, lost)
    tail = sum(math.comb(differ, count) for count in range(most, differ + 1))
    return Comparison(gained, lost, min(1.0, 2 * tail / 2**differ))


@dataclass(frozen=True)
class _Graded:
    """What an arm's models, one a seed, said."""

    name: str
    removed: tuple[int, ...]
    queries: list[Predictions]
    tests: list[Predictions]

    @property
    def correct(self) -> Float[np.ndarray, " rows"]:
        return np.asarray(np.mean([p.correct for p in self.tests], axis=0))

    def arm(self, queries: Corpus) -> Arm:
        probabilities = np.asarray(np.mean([p.true_probabilities for p in self.queries], axis=0, dtype=np.float64))
        outcomes = tuple(
            QueryOutcome(
                text=query.text,
                label=self.queries[0].true_labels[query.row],
                probability=float(probabilities[query.row]),
                predicted=tuple(p.predicted[query.row] for p in self.queries),
            )
            for query in queries
        )
        return Arm(self.name, self.removed, tuple(p.accuracy for p in self.tests), outcomes)


def _checked(run: Run, rows: Sequence[int]) -> tuple[int, ...]:
    worst = tuple(sorted({int(row) for row in rows}))
    if not worst:
        raise UsageError("no rows to remove.")
    if worst[0] < 0 or worst[-1] >= len(run.corpus):
        bad = worst[0] if worst[0] < 0 else worst[-1]
        raise UsageError(f"row {bad:,} (counted from 0) is not among the run's {len(run.corpus):,} rows.")
    labels = Counter(example.label for example in run.corpus)
    gone = Counter(run.corpus[row].label for row in worst)
    for label, count in gone.items():
        if count == labels[label]:
            raise DataError(
                f"{run.corpus.name}: removing these {len(worst):,} rows leaves none labelled {label!r}. Remove fewer."
            )
    return worst
