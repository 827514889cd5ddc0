"""`headwater audit RUN mislabels`: rows whose label is likely wrong, how many there are, and the label to give them.

Clean rows (half of the run's evaluation rows) are asked who teaches against them, and say how often models contradict
a right label; the other half stays untouched, to prove the repair on. How many rows are suggested follows from
`audit/excess.py`; their order is that of the combined detector. Where the training rows follow a wrong rule, models
that learned it cannot tell: then the rows that teach most against clean rows are suggested, with those rows' label.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater.attribution.index import Index
from headwater.audit.afford import SAFETY, Left
from headwater.audit.calibration import Calibrated, calibrate, check_known
from headwater.audit.detectors import ABOUT
from headwater.audit.evidence import Reasons, evidence_of
from headwater.audit.folds import FOLDS, WAYS
from headwater.audit.measured import Measured, measure, split_held_out
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes, share_of_rows
from headwater.errors import DataError
from headwater.remedies.cost import retraining_seconds
from headwater.remedies.spelling import spelled
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets
from headwater.training import retrain

WHAT = "mislabels"
WITH_REASONS = 200  # suspects that are told with queries, words and nearest rows
_AT_ONCE = 25  # of them, between two looks at the clock
_BACKWARD = 3  # times as long as reading a row takes it to be read and asked for gradients
RULE_LISTED = 50
"""Suspects of a wrong rule: influence alone is right at the top of its list and not far down, so few are suggested."""


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
    copy under `keep`; the second takes longer than the audit, and is left out where the time does not suffice. Raises
    as `measure` does, DataError where the reviewed rows are too few, RunError where a copy cannot be trained.
    """
    if index is not None:
        run = replace(run, corpus=index.corpus) if index.corpus is not run.corpus else run
    if len(run.corpus) < 2 * FOLDS:
        raise DataError(f"{run.corpus.name}: {len(run.corpus)} rows are too few for {FOLDS} folds.")
    began = time.monotonic()
    if reviewed is not None:
        check_known(np.fromiter(reviewed.values(), dtype=bool))
    if plant is not None:
        run.need_recipe()
    clean, _ = split_held_out(run, seed)
    found = measure(run, index, clean, left=left, keep=keep, seed=seed, show=show)
    calibrated, notes = None, []
    try:
        if reviewed is not None:
            notes.append(f"{len(reviewed):,} reviewed rows are not suggested again.")
            calibrated = by_reviewed(found, reviewed)
        elif plant is not None and left is not None and _planting(run, index, found, began) > left():
            notes.append("The time did not suffice for --plant, so nothing is calibrated. Give more --budget.")
        elif plant is not None:
            assert keep is not None
            calibrated = by_planted(run, index, found, plant, keep / "planted", seed=seed, show=show)
    except DataError as error:  # what was found stands, all the same
        notes.append(f"Nothing is calibrated: {error}")
    told = listed(
        run,
        index,
        found,
        began=began,
        top=top,
        calibrated=calibrated,
        reviewed=reviewed or (),
        notes=tuple(notes),
        left=left,
    )
    return told, calibrated


def _planting(run: Run, index: Index | None, found: Measured, began: float) -> float:
    """Seconds that a planted copy takes: to be trained, indexed, and measured as the run was since it `began`."""
    took = time.monotonic() - began
    passes = 0 if index is None else len(index.checkpoints)
    return SAFETY * (took + retraining_seconds(run) + _BACKWARD * found.part.reading * len(run.corpus) * passes)


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
    seed: int = 0,
    show: bool | None = None,
) -> Calibrated:
    """Flip a share of the labels of a copy, train, index and measure it in `folder` as the run, and calibrate on the
    flips.

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
    again = measure(copy, indexed, found.clean, like=found, seed=seed, show=show)
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
    left: Left | None = None,
) -> Worklist:
    """Make the worklist of what was measured; its cost counts from `began` (time.monotonic()).

    Rows that were `reviewed` are decided, and are not suggested again. Where little time is `left`, fewer rows are told
    with reasons.
    """
    counted = found.excess.count if found.excess is not None else found.cleanlab
    leads = found.leads
    if found.rule_leads:
        assert found.rule is not None
        counted = min(found.rule.count, RULE_LISTED)
    order = np.argsort(-found.scores[leads], kind="stable")
    order = order[~np.isin(found.rows[order], sorted(reviewed))]
    if top is None and leads == "combined":  # what was counted is contradicted, so only such rows are suggested
        order = order[found.outside.rows[order].argmax(axis=1) != found.targets[order]]
    order = order[: counted if top is None else top]
    shares = {name: share_of_rows(scores) for name, scores in found.scores.items()}
    reasons, told = _reasons(run, index, found, found.rows[order[:WITH_REASONS]].tolist(), left)
    notes = (*notes, *told)
    suspects = []
    names, labels = run.id2label, {name: spelled(run, name) for name in run.label2id}
    for place in order:
        row = int(found.rows[place])
        best = int(found.outside.rows[place].argmax()) if leads == "combined" else _hurt_label(run, found, int(place))
        wrong = best != found.targets[place]
        reason = reasons.get(row)
        sure = (None, None) if calibrated is None else calibrated.confidence(float(found.scores[leads][place]))
        suspects.append(
            Suspect(
                row,
                "relabel" if wrong else "delete",
                float(found.scores[leads][place]),
                label=labels[names[best]] if wrong else None,
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
        "out_of_sample": list(found.outside.ways),
        "audited_rows": len(found.rows),
    }
    about = {name: ABOUT[name] for name in found.scores}
    how_sure = _how_sure(
        found, "Confidence of single rows is not calibrated." if calibrated is None else calibrated.sentence
    )
    told_notes = (*found.notes, *notes)
    return Worklist(WHAT, run.corpus, tuple(suspects), _how_many(found), how_sure, cost, about, told_notes, figures)


def _reasons(
    run: Run, index: Index | None, found: Measured, rows: list[int], left: Left | None
) -> tuple[dict[int, Reasons], list[str]]:
    """Reasons for the first suspects, for as many as the time allows; and what to say about it."""
    reasons: dict[int, Reasons] = {}
    took = 0.0
    for start in range(0, len(rows), _AT_ONCE):
        if left is not None and SAFETY * took > left():
            some = f"for the first {start:,} rows only" if start else "for no row"
            return reasons, [f"The time sufficed to give reasons {some}."]
        began = time.monotonic()
        reasons |= evidence_of(
            rows[start : start + _AT_ONCE],
            run.corpus,
            index=index,
            held_out=found.asked,
            scores=found.opposed,
            features=found.seen.features,
            among=found.rows,
        )
        took = time.monotonic() - began
    return reasons, []


def _how_many(found: Measured) -> str:
    rows = f"{len(found.rows) if found.excess is None else found.excess.rows:,} rows"
    if found.excess is None:
        return f"Cleanlab counts {found.cleanlab:,} of {rows} as wrongly labelled; no clean rows were there to compare."
    if found.rule_leads:
        assert found.rule is not None
        few, many = found.rule.low, found.rule.high
        return (
            f"The training rows follow a rule that the held-out rows contradict: about {found.rule.count:,} of {rows} "
            f"(95%: {few:,} to {many:,}). Or they are easier than the held-out ones, as texts are of which near-copies "
            "stand there: headwater audit RUN duplicates tells."
        )
    if not found.excess.count:
        hidden = f"; at most {found.excess.high:,} may hide among them (95%)" if found.excess.high else ""
        return (
            f"No more of {rows} contradict models that never saw them than clean rows do{hidden}. Cleanlab alone would "
            f"name {found.cleanlab:,}; --top N lists the N most suspect to look at."
        )
    few, many = found.excess.low, found.excess.high
    return f"About {found.excess.count:,} of {rows} carry a wrong label (95%: {few:,} to {many:,})."


def _how_sure(found: Measured, calibration: str) -> str:
    ways = ", by ".join(WAYS[way] for way in found.outside.ways)
    first = f"Models that never saw a row come from {FOLDS} folds: by {ways}."
    if found.excess is None:
        return f"{first} {calibration}"
    assert found.clean is not None
    return (
        f"{first} They were compared on {len(found.clean.corpus):,} held-out rows that are taken as right: wrong "
        f"labels among those hide as many here. {calibration}"
        + (
            " Rows of another kind than the held-out ones would look the same, and influence is only right at the top "
            f"of its list: {RULE_LISTED} rows at most are suggested. Look at them first."
            if found.rule_leads
            else ""
        )
    )


def _hurt_label(run: Run, found: Measured, place: int) -> int:
    """The class of the clean rows that a row hurts most: those of the lowest mean score, label by label."""
    assert found.opposed is not None and found.asked is not None
    classes = np.asarray(corpus_targets(run.task, found.asked.corpus, run.checkpoints[-1].config))
    told = {int(each): float(found.opposed[classes == each, place].mean()) for each in np.unique(classes)}
    return min(told, key=lambda each: (told[each], each))
