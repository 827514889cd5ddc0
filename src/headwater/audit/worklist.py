"""What an audit ends in: suspect rows in order, how many and how sure, what it cost; and the plan made of them.

OUT/worklist.json  worklist.csv  worklist.html      for people and programs
OUT/plan.jsonl                                      suggestions for `headwater fix`; equal audits, equal bytes
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import headwater
from headwater.remedies.plan import MOST_EVIDENCE, Calibration, Evidence, Header, Plan, Repair
from headwater.runs.corpus import Corpus, Label
from headwater.runs.run import Run

NOTHING = "Nothing to repair"
NOT_CALIBRATED = "not calibrated"


@dataclass(frozen=True)
class Suspect:
    """One row that an audit suggests to change. `row` counts from 0; `score` is the audit's own, larger is worse."""

    row: int
    action: str
    score: float
    label: Label | None = None
    """Of relabel: the label that it should carry."""
    weight: float | None = None
    fields: Mapping[str, str] | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    """Of each detector, the share of rows (0 to 1) that are not more suspect."""
    group: str | None = None
    words: tuple[str, ...] = ()
    """The words of the row behind the suspicion, strongest first."""
    evidence: tuple[Evidence, ...] = ()
    confidence: float | None = None
    """That the row is wrong, 0 to 1; None: not calibrated."""
    calibration: Calibration | None = None
    note: str | None = None


@dataclass(frozen=True)
class Cost:
    """What an audit took: seconds, the process' peak of memory in bytes, and the rows that it looked at."""

    seconds: float
    peak_bytes: int
    rows: int

    @property
    def rows_per_second(self) -> float:
        """Rows looked at in a second."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "rows": self.rows,
            "rows_per_second": self.rows_per_second,
        }


@dataclass(frozen=True)
class Worklist:
    """Suspect rows, the most suspect first. No suspects is an answer: nothing to repair."""

    audit: str
    corpus: Corpus
    suspects: tuple[Suspect, ...]
    how_many: str
    """One sentence: how many rows, and who counted."""
    how_sure: str
    """One sentence: how far to trust the order and the number."""
    cost: Cost
    detectors: Mapping[str, str] = field(default_factory=dict)
    """What each detector is, in a few words, by its name in `Suspect.percentiles`."""
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the audit as a whole, as JSON holds them."""

    @property
    def summary(self) -> str:
        """The first thing to say."""
        return self.how_many if self.suspects else f"{NOTHING}: {self.how_many[:1].lower()}{self.how_many[1:]}"

    def without(self, kept: Collection[int]) -> Worklist:
        """The worklist without rows that a person looked at and wants to keep as they are."""
        left = tuple(suspect for suspect in self.suspects if suspect.row not in kept)
        gone = len(self.suspects) - len(left)
        if not gone:
            return self
        note = f"{gone:,} of these rows were marked to be kept as they are, and have not changed: left out."
        return replace(self, suspects=left, notes=(*self.notes, note))

    def plan(self, run: Run, command: str | None = None, seed: int | None = None) -> Plan:
        """The suggestions as a repair plan; raises DataError where a suspect says what no plan can hold."""
        header = Header(run.name, self.corpus.fingerprint, command, headwater.__version__, seed)
        return Plan(tuple(map(self._repair, self.suspects, range(1, len(self.suspects) + 1))), header, "plan.jsonl")

    def _repair(self, suspect: Suspect, rank: int) -> Repair:
        example = self.corpus[suspect.row]
        return Repair(
            suspect.action,
            row=suspect.row,
            id=example.id,
            hash=example.hash,
            label=suspect.label,
            fields=None if suspect.fields is None else dict(suspect.fields),
            weight=suspect.weight,
            was=self._was(suspect),
            status="suggested",
            source=self.audit,
            score=float(suspect.score),
            rank=rank,
            group=suspect.group,
            confidence=suspect.confidence,
            calibration=suspect.calibration,
            evidence=_evidence(suspect),
            note=suspect.note,
        )

    def _was(self, suspect: Suspect) -> dict[str, Any] | None:
        if suspect.label is not None:
            return {"label": self.corpus[suspect.row].label}
        if suspect.fields is not None:
            here = self.corpus.table.slice(suspect.row, 1)
            return {"fields": {name: here.column(name)[0].as_py() for name in suspect.fields}}
        return None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as worklist.json holds it."""
        return {
            "format": 1,
            "audit": self.audit,
            "corpus": {"name": self.corpus.name, "rows": len(self.corpus), "fingerprint": self.corpus.fingerprint},
            "summary": self.summary,
            "how_many": self.how_many,
            "how_sure": self.how_sure,
            "cost": self.cost.to_dict(),
            "detectors": dict(self.detectors),
            "notes": list(self.notes),
            "figures": dict(self.figures),
            "suspects": [self._told(suspect, rank) for rank, suspect in enumerate(self.suspects, 1)],
        }

    def _told(self, suspect: Suspect, rank: int) -> dict[str, Any]:
        example = self.corpus[suspect.row]
        return {
            "rank": rank,
            "row": suspect.row,
            "id": example.id,
            "text": str(example.text),
            "text_pair": example.text_pair,
            "was": example.label,
            "action": suspect.action,
            "label": suspect.label,
            "weight": suspect.weight,
            "fields": None if suspect.fields is None else dict(suspect.fields),
            "score": float(suspect.score),
            "percentiles": {name: float(value) for name, value in suspect.percentiles.items()},
            "group": suspect.group,
            "words": list(suspect.words),
            "evidence": [_plain(each) for each in suspect.evidence],
            "confidence": NOT_CALIBRATED if suspect.confidence is None else suspect.confidence,
            "calibration": None if suspect.calibration is None else _plain(suspect.calibration),
            "note": suspect.note,
        }

    def csv(self) -> str:
        """One line a suspect, with a column for each detector; the first line names the columns."""
        made = io.StringIO()
        writer = csv.writer(made, lineterminator="\n")
        names = list(self.detectors)
        plain = ("rank", "row", "id", "action", "was", "label", "weight", "score", "confidence", "group")
        writer.writerow([*plain, *(f"percentile {name}" for name in names), "words", "hurts", "text", "text_pair"])
        for told in self.to_dict()["suspects"]:
            hurts = [each["text"] for each in told["evidence"] if each["kind"] == "query"]
            shares = [told["percentiles"].get(name) for name in names]
            tail = [" ".join(told["words"]), " | ".join(hurts), told["text"], told["text_pair"]]
            writer.writerow([*(told[name] for name in plain), *shares, *tail])
        return made.getvalue()


def _evidence(suspect: Suspect) -> tuple[Evidence, ...]:
    """What a plan has room for: queries, words and rows first, then the detectors that speak loudest."""
    given = list(suspect.evidence[:MOST_EVIDENCE])
    loudest = sorted(suspect.percentiles.items(), key=lambda pair: (-pair[1], pair[0]))
    told = [Evidence("statistic", name=name, percentile=float(value)) for name, value in loudest]
    return tuple(given + told[: MOST_EVIDENCE - len(given)])


def _plain(value: Any) -> dict[str, Any]:
    return {name: each for name, each in vars(value).items() if each is not None}


def peak_bytes() -> int:
    """The largest resident memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def share_of_rows(scores: Sequence[float] | Any) -> Any:
    """Percentile of each score, 0 to 1: the share of all rows whose score is not larger. Equal scores, equal shares."""
    import numpy as np
    from scipy.stats import rankdata

    values = np.asarray(scores, dtype=np.float64)
    return rankdata(values, method="max") / max(len(values), 1)
