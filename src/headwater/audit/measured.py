"""All detectors of wrong labels over the rows of a run, within a time; and what the clean rows beside them say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.attribution.index import Index
from headwater.attribution.seen import Seen, look
from headwater.audit.detectors import ABOUT, combined, confident_learning, of_model, of_opponents
from headwater.audit.evidence import HeldOut
from headwater.audit.excess import Excess, contradiction, excess, if_wrong
from headwater.audit.folds import FOLDS, OutOfSample, Way, out_of_sample
from headwater.errors import UsageError
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task

QUERIES = 200  # clean rows that are asked for their opponents
_TIMED = 256  # rows that say how long a pass over all of them takes
_FORWARD = 0.25  # of the time for the first pass over the rows
_TRAINING = 3.0  # a step of training costs about three forward passes
SAFETY = 1.3  # what was timed once may take longer

Left = Callable[[], float]


@dataclass(frozen=True)
class Measured:
    """All detectors over `rows` of the corpus, ascending; `clean` are the rows that were taken as right."""

    rows: Int64[np.ndarray, " rows"]
    targets: Int64[np.ndarray, " rows"]
    scores: Mapping[str, Float64[np.ndarray, " rows"]]
    seen: Seen
    outside: OutOfSample
    clean: HeldOut | None
    excess: Excess | None
    """None: no clean rows to compare with."""
    rule: Excess | None
    """By how much more the clean rows are contradicted; a count speaks for a rule that only training rows follow."""
    cleanlab: int
    """Issues that cleanlab itself would name."""
    opposed: Float32[np.ndarray, "queries rows"] | None
    asked: HeldOut | None
    """The clean rows of `opposed`."""
    notes: tuple[str, ...]

    @property
    def leads(self) -> str:
        """The detector that puts the suspects in order."""
        return "opponents-mean" if self.rule_leads else "combined"

    @property
    def rule_leads(self) -> bool:
        """Whether the training rows seem to follow a rule of their own, and influence can say which rows teach it."""
        return self.rule is not None and self.rule.count > 0 and self.opposed is not None


def split_held_out(run: Run, seed: int = 0) -> tuple[HeldOut | None, Corpus | None]:
    """Halve the run's evaluation rows, label by label: rows to audit with, and rows to prove on."""
    corpus = run.eval_corpus
    if corpus is None or corpus.columns.label is None or len(corpus) < 2:
        return None, None
    labels = np.asarray([str(label) for label in corpus.table.column(corpus.columns.label).to_pylist()])
    generator = np.random.default_rng(seed)
    first: list[int] = []
    for number, label in enumerate(np.unique(labels)):
        rows = generator.permutation(np.flatnonzero(labels == label))
        first += rows[: (len(rows) + number % 2) // 2].tolist()
    kept = sorted(first)
    rest = sorted(set(range(len(corpus))) - set(kept))
    return (HeldOut(corpus.take(kept), tuple(kept)) if kept else None), corpus.take(rest)


def measure(
    run: Run,
    index: Index | None,
    clean: HeldOut | None,
    *,
    left: Left | None = None,
    keep: Path | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Measured:
    """Let every detector judge the rows. `left` says how many seconds there are; without it time is no matter.

    `keep` is a folder for finished folds. Raises UsageError for a task without classes, or without cleanlab.
    """
    if text_task(run.task) is not None:
        raise UsageError(f"mislabels needs classes; the task of {run.folder} is {run.task.kind}.")
    try:
        import cleanlab  # noqa: F401  said before anything is computed
    except ImportError as error:
        raise UsageError("this audit needs cleanlab: pip install 'headwater[audit]'.") from error
    rows, seconds, notes = _affordable(run, left, seed)
    targets = np.asarray([run.targets[row] for row in rows], dtype=np.int64)
    seen = look(run, rows.tolist(), show=show)
    scores = of_model(seen, targets, seed)
    asked, opposed = None, None
    if index is None:
        notes.append("Nothing is indexed, so influence was not asked: headwater index RUN.")
    else:
        scores["self-influence"] = index.self_influence()[rows]
        if clean is not None:
            asked = _some(clean, seed)
            opposed = index.scores(asked.corpus, asked.labels, normalize="train", show=show)[:, rows]
            scores |= of_opponents(opposed, asked.labels)
    way, why = _way(run, seconds * len(rows), left)
    notes += [why] if why else []
    held = None if clean is None else clean.corpus
    outside = out_of_sample(run, rows.tolist(), held, way, folder=keep, seed=seed, show=show)
    scores["confident-learning"], issues = confident_learning(outside.rows, targets)
    scores["combined"] = combined(scores)
    counted, rule = None, None
    if held is None:
        notes.append("The run kept no evaluation rows: cleanlab counts, and nobody was asked for opponents.")
    else:
        truth = np.asarray(corpus_targets(run.task, held, run.checkpoints[-1].config))
        right, wrong = (
            np.mean([told(each, truth) for each in outside.clean], axis=0) for told in (contradiction, if_wrong)
        )
        mine = contradiction(outside.rows, targets)
        counted, rule = excess(mine, right, wrong), excess(mine, right, wrong, of="clean")
    ordered = {name: scores[name] for name in ABOUT if name in scores}
    return Measured(rows, targets, ordered, seen, outside, clean, counted, rule, issues, opposed, asked, tuple(notes))


def _affordable(run: Run, left: Left | None, seed: int) -> tuple[Int64[np.ndarray, " rows"], float, list[str]]:
    """Which rows can be read in time, seconds of a forward pass a row, and what to say about it."""
    count = len(run.corpus)
    everything = np.arange(count)
    if left is None:
        return everything, 0.0, []
    sample = np.sort(np.random.default_rng(seed).choice(count, min(_TIMED, count), replace=False))
    started = time.monotonic()
    look(run, sample.tolist(), show=False)
    each = (time.monotonic() - started) / len(sample)
    most = int(left() * _FORWARD / max(each, 1e-9))
    if most >= count:
        return everything, each, []
    if most < 2 * FOLDS:
        raise UsageError(f"the time is too short: reading one row takes {each:.2f} s. Give more --budget.")
    rows = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    return rows, each, [f"The time did not suffice for all rows: {most:,} of {count:,}, drawn at random, were audited."]


def _way(run: Run, forward: float, left: Left | None) -> tuple[Way, str]:
    """By the recipe where it is there and five folds fit into the time; `forward`: seconds of a pass over the rows."""
    if run.recipe is None:
        return "words", f"The run cannot be trained again ({run.no_recipe or 'no recipe'}): word counts stand in."
    if left is None:
        return "recipe", ""
    epochs = float(run.recipe.arguments.get("num_train_epochs", 3.0))
    needed = SAFETY * forward * _TRAINING * epochs * (FOLDS - 1)
    if needed <= left():
        return "recipe", ""
    return "words", (
        f"Five folds by the recipe would take about {needed:,.0f} s, beyond the time: word counts (TF-IDF) and a "
        "logistic regression stand in. Give more --budget for the recipe."
    )


def _some(clean: HeldOut, seed: int) -> HeldOut:
    count = len(clean.corpus)
    if count <= QUERIES:
        return clean
    rows = np.sort(np.random.default_rng(seed).choice(count, QUERIES, replace=False)).tolist()
    return HeldOut(clean.corpus.take(rows), None if clean.refs is None else tuple(clean.refs[row] for row in rows))
