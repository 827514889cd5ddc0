"""`headwater audit RUN duplicates`: training rows that are nearly the same, and held-out rows that training has seen.

Of a cluster with one label the first row stays and the others are suggested for deletion. Where the labels differ
nobody but a person knows which is right: these rows come first, with the suggestion to keep them, which changes
nothing. Held-out rows with a near-duplicate in training measure memory: the metrics are told with and without them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.attribution.numerals import plural
from headwater.attribution.overview import survey
from headwater.audit.afford import Left
from headwater.audit.near import THRESHOLD, Pair, clusters, near_pairs
from headwater.audit.worklist import Cost, Suspect, Worklist, peak_bytes
from headwater.remedies.plan import Evidence
from headwater.runs.corpus import Corpus, Label
from headwater.runs.run import Run
from headwater.runs.task import corpus_targets, text_task

WHAT = "duplicates"
DUPLICATE = "duplicate"
_MOST = 3  # rows that a row is shown with
_TEXT = 300  # characters of them


@dataclass(frozen=True)
class Leak:
    """A held-out row, and the training row that is most like it."""

    held_out: int
    train: int
    similarity: float
    same_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def audit_duplicates(
    run: Run,
    held_out: Corpus | None,
    *,
    threshold: float = THRESHOLD,
    left: Left | None = None,
    show: bool | None = None,
) -> tuple[Worklist, tuple[Leak, ...]]:
    """Find near-duplicates among the training rows, and between them and held-out rows.

    Where the seconds that are `left` do not suffice, only the first texts are compared, held-out ones last; numbers are
    of these alone, a note says so, and metrics without leaks are not told, for not all leaks are known.

    Raises UsageError as `near_pairs` does.
    """
    began = time.monotonic()
    corpus, count = run.corpus, len(run.corpus)
    texts = _texts(corpus) + ([] if held_out is None else _texts(held_out))
    near_by = near_pairs(texts, threshold=threshold, left=left, show=show)
    pairs, compared = near_by.pairs, min(near_by.compared, count)
    asked, others = max(near_by.compared - count, 0), len(texts) - count
    groups = clusters(count, [pair for pair in pairs if pair.second < count])
    leaks = _leaks(pairs, run, held_out)
    near = _neighbours(pairs, count)
    labels = [corpus[row].label for row in range(count)]
    conflicts = [rows for rows in groups if len({labels[row] for row in rows}) > 1]
    agreed = [rows for rows in groups if len({labels[row] for row in rows}) == 1]
    suspects = [
        _suspect(corpus, row, near[row], f"conflict {number}", keep=True)
        for number, rows in enumerate(conflicts, 1)
        for row in rows
    ]
    suspects += [
        _suspect(corpus, row, near.get(row, []) or [Pair(rows[0], row, threshold)], f"cluster {number}", keep=False)
        for number, rows in enumerate(agreed, 1)
        for row in rows[1:]
    ]
    metrics = {} if held_out is None or asked < others else _metrics(run, held_out, leaks, show)
    spare = sum(len(rows) - 1 for rows in agreed)
    figures = {
        "threshold": threshold,
        "compared": {"rows": compared, "held_out": asked},
        "clusters": len(groups),
        "spare_rows": spare,
        "conflicts": [{"rows": rows, "labels": [labels[row] for row in rows]} for rows in conflicts],
        "leaks": [leak.to_dict() for leak in leaks],
        "metrics": metrics,
    }
    worklist = Worklist(
        WHAT,
        corpus,
        tuple(suspects),
        _how_many(_those(compared, count), agreed, conflicts, spare, threshold),
        f"MinHash may miss some pairs near the threshold of {threshold:g}; each pair told was compared in full.",
        Cost(time.monotonic() - began, peak_bytes(), near_by.compared),
        {DUPLICATE: "Jaccard similarity of the pieces of 5 characters with the most similar row"},
        (*_unread(compared, count, asked, others), *_notes(held_out, asked, leaks, metrics, conflicts)),
        figures,
    )
    return worklist, leaks


def _texts(corpus: Corpus) -> list[str]:
    made = []
    for row in range(len(corpus)):
        example = corpus[row]
        made.append(str(example.text) if example.text_pair is None else f"{example.text}\n{example.text_pair}")
    return made


def _neighbours(pairs: Sequence[Pair], count: int) -> dict[int, list[Pair]]:
    """Of each training row its pairs, as (other, row), the most similar first."""
    found: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.second < count:
            found.setdefault(pair.second, []).append(pair)
            found.setdefault(pair.first, []).append(Pair(pair.second, pair.first, pair.similarity))
    return {row: sorted(each, key=lambda pair: (-pair.similarity, pair.first)) for row, each in found.items()}


def _suspect(corpus: Corpus, row: int, near: Sequence[Pair], group: str, *, keep: bool) -> Suspect:
    told = []
    for pair in near[:_MOST]:
        other = corpus[pair.first]
        text, value = str(other.text)[:_TEXT], round(pair.similarity, 4)
        told.append(Evidence("row", ref=pair.first, text=text, label=other.label, name=DUPLICATE, value=value))
    return Suspect(
        row,
        "keep" if keep else "delete",
        near[0].similarity,
        percentiles={},
        group=group,
        evidence=tuple(told),
        note="Near-duplicates carry other labels: relabel or delete what is wrong. Keep says that all are right."
        if keep
        else None,
    )


def _leaks(pairs: Sequence[Pair], run: Run, held_out: Corpus | None) -> tuple[Leak, ...]:
    """Held-out rows with a near-duplicate in training. What equals an earlier held-out row leaks as that one does."""
    if held_out is None:
        return ()
    count = len(run.corpus)
    ours, theirs = _named(run, run.corpus), _named(run, held_out)
    best: dict[int, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.second, -pair.similarity, pair.first)):
        if pair.second >= count:
            known = pair if pair.first < count else best.get(pair.first) if pair.similarity == 1 else None
            if known is not None and (pair.second not in best or known.similarity > best[pair.second].similarity):
                best[pair.second] = Pair(known.first, pair.second, known.similarity)
    return tuple(
        Leak(row - count, pair.first, pair.similarity, ours[pair.first] == theirs[row - count])
        for row, pair in sorted(best.items())
    )


def _named(run: Run, corpus: Corpus) -> list[Label | None]:
    """The labels, classes by their numbers: one corpus may hold their names, another these."""
    if text_task(run.task) is None and corpus.columns.label is not None:
        return list(corpus_targets(run.task, corpus, run.checkpoints[-1].config))
    return [example.label for example in corpus]


def _metrics(run: Run, held_out: Corpus, leaks: Sequence[Leak], show: bool | None) -> dict[str, Any]:
    """Loss (nats), and accuracy of classes, on all held-out rows, on those that leak, and on the others."""
    seen = survey(run, held_out, show=show)
    losses = np.asarray(seen.losses)
    correct = None if seen.predictions is None else np.asarray(seen.predictions.correct)
    leaked = np.zeros(len(held_out), dtype=bool)
    leaked[[leak.held_out for leak in leaks]] = True
    parts = {"all": np.ones(len(held_out), dtype=bool), "leaked": leaked, "without leaks": ~leaked}
    return {
        name: {
            "rows": int(rows.sum()),
            "loss": float(losses[rows].mean()),
            "accuracy": None if correct is None else float(correct[rows].mean()),
        }
        for name, rows in parts.items()
        if rows.any()
    }


def _those(compared: int, count: int) -> str:
    return f"{count:,} rows" if compared == count else f"the first {compared:,} of {count:,} rows"


def _how_many(
    those: str, agreed: Sequence[Sequence[int]], conflicts: Sequence[Sequence[int]], spare: int, threshold: float
) -> str:
    if not agreed and not conflicts:
        return f"No two of {those} are alike by {threshold:g} or more."
    first = f"{spare:,} of {those} repeat another one ({plural(len(agreed), 'cluster')})"
    if not conflicts:
        return f"{first}; no labels among them contradict each other."
    rows = sum(map(len, conflicts))
    return f"{first}; {rows:,} rows in {plural(len(conflicts), 'cluster')} carry labels that contradict each other."


def _unread(compared: int, count: int, asked: int, others: int) -> list[str]:
    """What the time did not suffice for: of `count` rows and `others` held out, so many were compared."""
    if compared == count and asked == others:
        return []
    told = "all rows" if compared == count else f"the first {compared:,} of {count:,} rows"
    if others:
        told += f", and {f'the first {asked:,}' if asked else 'none'} of {others:,} held-out ones"
    return [f"The time sufficed to compare {told}. Give more --budget."]


def _notes(
    held_out: Corpus | None,
    asked: int,
    leaks: Sequence[Leak],
    metrics: dict[str, Any],
    conflicts: Sequence[Sequence[int]],
) -> list[str]:
    notes = []
    if conflicts:
        notes.append("Labels that contradict each other are left to you: groups named conflict come first.")
    if held_out is None:
        notes.append("The run kept no evaluation rows, so nothing is said of leaks. Name some: --held-out FILE.")
    elif not asked:
        notes.append("No held-out row was compared, so nothing is said of leaks.")
    elif leaks:
        told = f"{len(leaks):,} of {asked:,} held-out rows have a near-duplicate in training"
        if not metrics:
            notes.append(f"{told}; metrics without leaks are not told, for not all are known.")
            return notes
        whole, rest = metrics["all"], metrics.get("without leaks")
        if rest is None:
            notes.append(f"{told}: nothing is left to measure on.")
        elif whole["accuracy"] is not None:
            notes.append(f"{told}: accuracy {whole['accuracy']:.1%} with them, {rest['accuracy']:.1%} without.")
        else:
            notes.append(f"{told}: loss {whole['loss']:.3f} with them, {rest['loss']:.3f} without.")
    return notes
