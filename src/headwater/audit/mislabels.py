"""`headwater audit RUN mislabels`: rows whose label is likely wrong, how many there are, and the label to give them.

Clean rows (half of the run's evaluation rows) are asked who teaches against them, and say how often models contradict
a right label; the other half stays untouched, to prove the repair on. How many rows are suggested follows from
`audit/excess.py`; their order is that of the combined detector. Where the training rows follow a wrong rule, models
that learned it cannot tell: then the rows that teach most against clean rows are suggested, with those rows' label.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.attribution.index import Index
from headwater.audit.calibration import Calibrated, calibrate
from headwater.audit.detectors import ABOUT, Seen, combined, confident_learning, look, of_model, of_opponents
from headwater.audit.evidence import HeldOut, evidence_of
from headwater.audit.excess import Excess, contradiction, excess, if_wrong
from headwater.audit.folds import FOLDS, OutOfSample, Way, out_of_sample
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes, share_of_rows
from headwater.errors import DataError, UsageError
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task
from headwater.training import retrain

WHAT = "mislabels"
QUERIES = 200  # clean rows that are asked for their opponents
WITH_REASONS = 200  # suspects that are told with queries, words and nearest rows
_TIMED = 256  # rows that say how long a pass over all of them takes
_FORWARD = 0.25  # of the time for the first pass over the rows
_TRAINING = 3.0  # a step of training costs about three forward passes
_SAFETY = 1.3

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


def audit_mislabels(
    run: Run,
    index: Index | None,
    *,
    left: Left | None = None,
    top: int | None = None,
    keep: Path | None = None,
    reviewed: Mapping[int, bool] | None = None,
    plant: float | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> tuple[Worklist, Calibrated | None]:
    """Find rows with a wrong label. `top` suggests so many, whatever was counted.

    Confidence is calibrated on `reviewed` rows (whether each is wrong), or on a share `plant` of labels flipped in a
    copy under `keep`; the second takes as long again, and is left out where the time is over. Raises as `measure`
    and `calibrate` do.
    """
    if index is not None:
        run = replace(run, corpus=index.corpus) if index.corpus is not run.corpus else run
    if len(run.corpus) < 2 * FOLDS:
        raise DataError(f"{run.corpus.name}: {len(run.corpus)} rows are too few for {FOLDS} folds.")
    began = time.monotonic()
    clean, _ = split_held_out(run, seed)
    found = measure(run, index, clean, left=left, keep=keep, seed=seed, show=show)
    calibrated, notes = None, []
    if reviewed is not None:
        calibrated = by_reviewed(found, reviewed)
        notes.append(f"{len(reviewed):,} reviewed rows are not suggested again.")
    elif plant is not None and left is not None and _SAFETY * (time.monotonic() - began) > left():
        notes.append("The time did not suffice for --plant, so nothing is calibrated. Give more --budget.")
    elif plant is not None:
        assert keep is not None
        calibrated = by_planted(run, index, found, plant, keep / "planted", left=left, seed=seed, show=show)
    told = listed(
        run,
        index,
        found,
        began=began,
        top=top,
        calibrated=calibrated,
        reviewed=reviewed or (),
        notes=tuple(notes),
    )
    return told, calibrated


def by_reviewed(found: Measured, reviewed: Mapping[int, bool]) -> Calibrated:
    """Calibrate on reviewed rows, as far as they were audited. Raises DataError where they are too few."""
    place = {int(row): number for number, row in enumerate(found.rows)}
    known = [(place[row], wrong) for row, wrong in sorted(reviewed.items()) if row in place]
    places, wrong = [number for number, _ in known], np.asarray([each for _, each in known], dtype=bool)
    return calibrate("reviewed", found.scores[found.leads][places], wrong)


def by_planted(
    run: Run,
    index: Index | None,
    found: Measured,
    share: float,
    folder: Path,
    *,
    left: Left | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Calibrated:
    """Flip a share of the labels of a copy, train, index and measure it in `folder`, and calibrate on the flips.

    Raises DataError where they are too few, RunError where the run cannot be trained again.
    """
    generator = np.random.default_rng(seed)
    labels = [str(label) for label in run.corpus.label_names()]
    if len(labels) < 2:
        raise DataError(f"{run.corpus.name}: with one label there is nothing to flip to.")
    rows = np.sort(generator.choice(len(run.corpus), max(round(share * len(run.corpus)), 1), replace=False))
    flips = {}
    for row in rows.tolist():
        others = [label for label in run.corpus.label_names() if label != run.corpus[row].label]
        flips[row] = others[int(generator.integers(len(others)))]
    shutil.rmtree(folder, ignore_errors=True)
    copy = retrain(run, corpus=run.corpus.with_labels(flips), out=folder, title="training the planted copy", show=show)
    indexed = None if index is None else Index.build(copy, show=show)
    clean = found.clean
    again = measure(copy, indexed, clean, left=left, seed=seed, show=show)
    return calibrate("planted", again.scores[found.leads], np.isin(again.rows, rows))


def listed(
    run: Run,
    index: Index | None,
    found: Measured,
    *,
    began: float,
    top: int | None = None,
    calibrated: Calibrated | None = None,
    reviewed: Collection[int] = (),
    notes: tuple[str, ...] = (),
) -> Worklist:
    """Make the worklist of what was measured; its cost counts from `began` (time.monotonic()).

    Rows that were `reviewed` are decided, and are not suggested again.
    """
    counted = found.excess.count if found.excess is not None else found.cleanlab
    leads = found.leads
    if found.rule_leads:
        assert found.rule is not None
        counted = found.rule.count
    order = np.argsort(-found.scores[leads], kind="stable")
    order = order[~np.isin(found.rows[order], sorted(reviewed))]
    if top is None and leads == "combined":  # what was counted is contradicted, so only such rows are suggested
        order = order[found.outside.rows[order].argmax(axis=1) != found.targets[order]]
    order = order[: counted if top is None else top]
    shares = {name: share_of_rows(scores) for name, scores in found.scores.items()}
    told = order[:WITH_REASONS]
    whole = len(found.rows) == len(run.corpus)  # of a part, columns are not those of the corpus
    reasons = evidence_of(
        found.rows[told].tolist(),
        run.corpus,
        index=index,
        held_out=found.asked,
        scores=found.opposed if whole else None,
        features=found.seen.features if whole else None,
    )
    suspects = []
    for place in order:
        row = int(found.rows[place])
        best = int(found.outside.rows[place].argmax()) if leads == "combined" else _hurt_label(run, found, int(place))
        wrong = best != found.targets[place]
        reason = reasons.get(row)
        sure = (None, None) if calibrated is None else calibrated.confidence(float(found.scores[leads][place]))
        names = run.id2label
        suspects.append(
            Suspect(
                row,
                "relabel" if wrong else "delete",
                float(found.scores[leads][place]),
                label=_spelled(run, names[best]) if wrong else None,
                percentiles={name: float(share[place]) for name, share in shares.items()},
                group=f"{run.corpus[row].label} → {names[best]}" if wrong else None,
                words=() if reason is None else reason.words,
                evidence=() if reason is None else reason.evidence,
                confidence=sure[0],
                calibration=sure[1],
            )
        )
    cost = Cost(time.monotonic() - began, peak_bytes(), len(found.rows))
    figures: dict[str, Any] = {
        "excess": None if found.excess is None else found.excess.to_dict(),
        "rule": None if found.rule is None else found.rule.to_dict(),
        "ordered_by": leads,
        "calibration": None if calibrated is None else calibrated.to_dict(),
        "cleanlab_issues": found.cleanlab,
        "out_of_sample": found.outside.way,
        "audited_rows": len(found.rows),
    }
    about = {name: ABOUT[name] for name in found.scores}
    how_sure = _how_sure(
        found, "Confidence of single rows is not calibrated." if calibrated is None else calibrated.sentence
    )
    told_notes = (*found.notes, *notes)
    return Worklist(WHAT, run.corpus, tuple(suspects), _how_many(found), how_sure, cost, about, told_notes, figures)


def _how_many(found: Measured) -> str:
    rows = f"{len(found.rows):,} rows"
    if found.excess is None:
        return f"Cleanlab counts {found.cleanlab:,} of {rows} as wrongly labelled; no clean rows were there to compare."
    if found.rule_leads:
        assert found.rule is not None
        few, many = found.rule.low, found.rule.high
        return (
            f"The training rows follow a rule that the held-out rows contradict: about {found.rule.count:,} of {rows} "
            f"(95%: {few:,} to {many:,})."
        )
    if not found.excess.count:
        return (
            f"No more of {rows} contradict models that never saw them than clean rows do "
            f"(cleanlab alone would name {found.cleanlab:,})."
        )
    few, many = found.excess.low, found.excess.high
    return f"About {found.excess.count:,} of {rows} carry a wrong label (95%: {few:,} to {many:,})."


def _how_sure(found: Measured, calibration: str) -> str:
    way = "the run's own recipe" if found.outside.way == "recipe" else "word counts and a logistic regression"
    first = f"Models that never saw a row come from {FOLDS} folds by {way}."
    if found.excess is None:
        return f"{first} {calibration}"
    assert found.clean is not None
    return (
        f"{first} They were compared on {len(found.clean.corpus):,} held-out rows that are taken as right: wrong "
        f"labels among those hide as many here. {calibration}"
        + (" Rows of another kind than the held-out ones would look the same: prove it." if found.rule_leads else "")
    )


def _hurt_label(run: Run, found: Measured, place: int) -> int:
    """The class of the clean rows that a row hurts most: those of the lowest mean score, label by label."""
    assert found.opposed is not None and found.asked is not None
    classes = np.asarray(corpus_targets(run.task, found.asked.corpus, run.checkpoints[-1].config))
    told = {int(each): float(found.opposed[classes == each, place].mean()) for each in np.unique(classes)}
    return min(told, key=lambda each: (told[each], each))


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
    needed = _SAFETY * forward * _TRAINING * epochs * (FOLDS - 1)
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


def _spelled(run: Run, name: str) -> Any:
    """A class as the corpus spells it: `1`, where its labels are numbers."""
    for label in run.corpus.label_names():
        if str(label) == name:
            return label
    number = run.label2id[name]
    return next((label for label in run.corpus.label_names() if label == number), name)
