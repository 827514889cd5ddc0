"""All detectors of wrong labels over the rows of a run, within a time; and what the clean rows beside them say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from headwater.attribution.index import Index
from headwater.attribution.seen import Seen, look
from headwater.audit.afford import Left, Part, Rows, drawn, part_like, part_of, queries_that_fit, ways_of
from headwater.audit.detectors import ABOUT, combined, confident_learning, of_model, of_opponents
from headwater.audit.evidence import HeldOut
from headwater.audit.excess import Excess, doubt, excess, if_wrong
from headwater.audit.folds import OutOfSample, Way, out_of_sample, together
from headwater.errors import UsageError
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task

QUERIES = 200  # clean rows that are asked for their opponents


@dataclass(frozen=True)
class Measured:
    """All detectors over `rows` of the corpus, ascending; `clean` are the rows that were taken as right."""

    rows: Int64[np.ndarray, " rows"]
    targets: Int64[np.ndarray, " rows"]
    scores: Mapping[str, Float64[np.ndarray, " rows"]]
    seen: Seen
    outside: OutOfSample
    """What all ways say of the rows together."""
    clean: HeldOut | None
    excess: Excess | None
    """None: no clean rows to compare with."""
    rule: Excess | None
    """By how much more clean rows are contradicted, by the kind of model of which this is surest; a count speaks for a
    rule that only training rows follow."""
    cleanlab: int
    """Issues that cleanlab itself would name."""
    opposed: Float32[np.ndarray, "queries rows"] | None
    asked: HeldOut | None
    """The clean rows of `opposed`."""
    notes: tuple[str, ...]
    part: Part
    """How `rows` were chosen."""

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
    reading: float | None = None,
    like: Measured | None = None,
    keep: Path | None = None,
    seed: int = 0,
    show: bool | None = None,
) -> Measured:
    """Let every detector judge the rows. `left` says how many seconds there are; without it time is no matter.

    `reading` are the seconds that the model takes a row, timed if not known. `like` was measured of a copy of the
    corpus with other labels: the same is then done again, whatever time is left. `keep` is a folder for finished folds.
    Raises UsageError for a task without classes, without cleanlab, or where the time is too short for anything;
    DataError where there are fewer texts than folds.
    """
    if text_task(run.task) is not None:
        raise UsageError(f"mislabels needs classes; the task of {run.folder} is {run.task.kind}.")
    if len(run.label2id) < 2:
        raise UsageError(f"the model of {run.folder} knows one label: there is no other that a row could carry.")
    try:
        import cleanlab  # noqa: F401  said before anything is computed
    except ImportError as error:
        raise UsageError("this audit needs cleanlab: pip install 'headwater[audit]'.") from error
    held = None if clean is None else clean.corpus

    def ask(rows: Rows, way: Way) -> OutOfSample:
        return out_of_sample(run, rows.tolist(), held, way, folder=keep, seed=seed, show=show)

    part = part_of(run, ask, left, reading=reading, seed=seed) if like is None else part_like(run, ask, like.part)
    rows, notes = part.rows, [*part.notes]
    targets = np.asarray(run.targets, dtype=np.int64)[rows]
    seen = look(run, rows.tolist(), show=show)
    scores = of_model(seen, targets, seed)
    if part.counted is None:
        clean_rows = 0 if held is None else len(held)
        ways, told = ways_of(run, part, clean_rows, left) if like is None else (like.outside.ways, [])
        voices = [ask(rows, way) for way in ways]
        notes += told
    else:
        voices = [part.counted.take(rows)]
    outside = together(voices)
    scores["confident-learning"], issues = confident_learning(voices[0].rows, targets)
    if part.counted is not None:  # how sure a class is on average is not to be seen on its least sure rows
        _, issues = confident_learning(part.counted.rows, np.asarray(run.targets))
    scores |= {voice.ways[0]: confident_learning(voice.rows, targets)[0] for voice in voices[1:]}
    most = QUERIES if like is None else 0 if like.asked is None else len(like.asked.corpus)
    asked, opposed, told = _opponents(index, clean, rows, most, left if like is None else None, seed, show)
    notes += told
    if index is not None:
        scores["self-influence"] = index.self_influence()[rows]
    if opposed is not None and asked is not None:
        scores |= of_opponents(opposed, asked.labels)
    scores["combined"] = combined(scores)
    counted, rule = None, None
    if held is None:
        notes.append("The run kept no evaluation rows: cleanlab counts, and nobody was asked for opponents.")
    else:
        truth = np.asarray(corpus_targets(run.task, held, run.checkpoints[-1].config))
        judged, given = (outside, targets) if part.counted is None else (part.counted, np.asarray(run.targets))
        counted = _excess(judged, given, truth)
        learned = voices if part.counted is None else [part.counted]
        rules = [_excess(voice, given, truth, of="clean", tests=len(learned)) for voice in learned]
        rule = min(rules, key=lambda each: each.p)
    ordered = {name: scores[name] for name in ABOUT if name in scores}
    return Measured(
        rows, targets, ordered, seen, outside, clean, counted, rule, issues, opposed, asked, tuple(notes), part
    )


def _excess(
    outside: OutOfSample,
    given: Int64[np.ndarray, " rows"],
    truth: Int64[np.ndarray, " clean"],
    *,
    of: Literal["train", "clean"] = "train",
    tests: int = 1,
) -> Excess:
    """Compare training texts with clean ones, of which every fold's model speaks (see `excess`)."""
    right, wrong = (
        outside.clean_by_text(np.mean([told(each, truth) for each in outside.clean], axis=0))
        for told in (doubt, if_wrong)
    )
    return excess(outside.by_text(doubt(outside.rows, given)), right, wrong, rows=len(given), of=of, tests=tests)


def _opponents(
    index: Index | None,
    clean: HeldOut | None,
    rows: Rows,
    most: int,
    left: Left | None,
    seed: int,
    show: bool | None,
) -> tuple[HeldOut | None, Float32[np.ndarray, "queries rows"] | None, list[str]]:
    """At most so many clean rows, as many as can be asked in the time, and the scores that they give to the rows."""
    if index is None:
        return None, None, ["Nothing is indexed, so influence was not asked: headwater index RUN."]
    if clean is None:
        return None, None, []
    most = queries_that_fit(index, clean, most, left, seed)
    if not most:
        return None, None, ["The time did not suffice to ask clean rows for their opponents."]
    asked = clean.take(drawn(len(clean.corpus), most, seed).tolist())
    return asked, index.scores(asked.corpus, asked.labels, normalize="train", show=show)[:, rows], []
