"""From a score to the probability that a row is wrong: a logistic curve through rows of which it is known.

Known rows are reviewed by people, or planted: labels flipped in a copy of the corpus, on which everything was trained
and measured anew (optimistic: flips at random are easier to find than people's mistakes). The Brier score and the
reliability plot are of rows that the curve did not see (five folds).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64
from markupsafe import Markup
from scipy.stats import binomtest

from headwater.errors import DataError
from headwater.remedies.plan import Calibration

Source = Literal["reviewed", "planted"]
BANDS = 5
LEAST = 20  # known rows, of which some are wrong and some are right
_YES = {"yes": True, "true": True, "1": True, "wrong": True, "no": False, "false": False, "0": False, "right": False}


@dataclass(frozen=True)
class Band:
    """Known rows of neighbouring confidence: the mean confidence, and how many are wrong (Wilson, 95%)."""

    confidence: float
    wrong: int
    rows: int
    low: float
    high: float


@dataclass(frozen=True)
class Calibrated:
    """A curve that was fitted on known rows."""

    source: Source
    scores: Float64[np.ndarray, " known"]
    wrong: Bool[np.ndarray, " known"]

    @cached_property
    def _curve(self) -> Callable[[Float[np.ndarray, " n"]], Float64[np.ndarray, " n"]]:
        return _fit(self.scores, self.wrong)

    @cached_property
    def unseen(self) -> Float64[np.ndarray, " known"]:
        """The confidence of each known row by a curve through the others (five folds)."""
        from sklearn.model_selection import StratifiedKFold

        found = np.zeros(len(self.scores))
        folds = min(5, int(self.wrong.sum()), int((~self.wrong).sum()))
        for rest, mine in StratifiedKFold(folds, shuffle=True, random_state=0).split(self.scores[:, None], self.wrong):
            found[mine] = _fit(self.scores[rest], self.wrong[rest])(self.scores[mine])
        return found

    @property
    def brier(self) -> float:
        """Mean squared difference of confidence and truth on unseen rows; 0 is perfect."""
        return float(np.mean((self.unseen - self.wrong) ** 2))

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Unseen known rows in five bands of equal size, from the least confident to the most."""
        made = []
        for part in np.array_split(np.argsort(self.unseen, kind="stable"), BANDS):
            count = int(self.wrong[part].sum())
            between = binomtest(count, len(part)).proportion_ci(method="wilson")
            confidence = float(self.unseen[part].mean())
            made.append(Band(confidence, count, len(part), float(between.low), float(between.high)))
        return tuple(made)

    def confidence(self, score: float) -> tuple[float, Calibration]:
        """The probability that a row of this score is wrong, and the band of known rows that it falls into."""
        value = float(self._curve(np.array([score]))[0])
        band = min(self.bands, key=lambda each: (abs(each.confidence - value), each.confidence))
        return value, Calibration(self.source, band.rows, band.low, band.high)

    @property
    def sentence(self) -> str:
        """How sure the confidence is."""
        known = f"{len(self.scores):,} reviewed rows" if self.source == "reviewed" else (

            f"{int(self.wrong.sum()):,} labels flipped at random in a copy of {len(self.scores):,} rows, which is "
            "optimistic, and speaks of a corpus with so many wrong labels"

        )  # fmt: skip
        return f"Confidence was calibrated on {known} (Brier score {self.brier:.3f})."

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "source": self.source,
            "rows": len(self.scores),
            "wrong": int(self.wrong.sum()),
            "brier": self.brier,
            "bands": [dict(vars(band)) for band in self.bands],
        }


def calibrate(source: Source, scores: Float[np.ndarray, " known"], wrong: Bool[np.ndarray, " known"]) -> Calibrated:
    """Fit a curve. Raises DataError as `check_known` does."""
    wrong = np.asarray(wrong, dtype=bool)
    check_known(wrong)
    return Calibrated(source, np.asarray(scores, dtype=np.float64), wrong)


def check_known(wrong: Bool[np.ndarray, " known"]) -> None:
    """Raise DataError for fewer than 20 known rows, or fewer than two of a kind."""
    kinds = int(wrong.sum()), int((~wrong).sum())
    if len(wrong) < LEAST or min(kinds) < 2:
        raise DataError(
            f"{len(wrong)} known rows, {kinds[0]} wrong and {kinds[1]} right, are too few to calibrate on: at least "
            f"{LEAST} are needed, and two of each kind."
        )


def read_reviewed(path: Path, rows: int) -> dict[int, bool]:
    """Read a CSV of reviewed rows: columns `row` (from 0) and `wrong` (yes or no). Raises DataError with the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV in UTF-8 ({error}).") from error
    if not lines or not {"row", "wrong"} <= lines[0].keys():
        raise DataError(f"{path}: needs the columns row and wrong, and a line a row: 17,yes")
    found: dict[int, bool] = {}
    for number, line in enumerate(lines, 2):
        row, wrong = str(line["row"]).strip(), str(line["wrong"]).strip().lower()
        if not row.isdecimal() or int(row) >= rows:
            raise DataError(f"{path}, line {number}: row {row!r} is not one of the {rows:,} rows (they count from 0).")
        if wrong not in _YES:
            raise DataError(f"{path}, line {number}: wrong is {wrong!r}. Write yes or no.")
        if found.setdefault(int(row), _YES[wrong]) != _YES[wrong]:
            raise DataError(f"{path}, line {number}: row {row} was told otherwise before.")
    return found


def reliability(calibrated: Calibrated) -> Markup:
    """Draw confidence against the share that is wrong, with Wilson intervals, as an inline SVG."""
    left, top, size = 44, 12, 240

    def x(value: float) -> str:
        return f"{left + size * value:.1f}"

    def y(value: float) -> str:
        return f"{top + size * (1 - value):.1f}"

    told = [f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="currentColor" stroke-dasharray="3 4" opacity=".5"/>']
    told.append(f'<path d="M{x(0)} {y(1)}V{y(0)}H{x(1)}" fill="none" stroke="currentColor" opacity=".6"/>')
    for value in (0, 0.5, 1):
        told.append(f'<text x="{x(value)}" y="{top + size + 16}" text-anchor="middle">{value:g}</text>')
        told.append(f'<text x="{left - 6}" y="{y(value)}" dy="4" text-anchor="end">{value:g}</text>')
    for band in calibrated.bands:
        place, share = x(band.confidence), band.wrong / band.rows
        told.append(f'<path d="M{place} {y(band.low)}V{y(band.high)}" stroke="currentColor"/>')
        told.append(
            f'<circle cx="{place}" cy="{y(share)}" r="4" fill="currentColor"><title>confidence '
            f"{band.confidence:.2f}: {band.wrong} of {band.rows} wrong</title></circle>"
        )
    told.append(f'<text x="{x(0.5)}" y="{top + size + 34}" text-anchor="middle">confidence</text>')
    label = "Reliability: confidence against the share of rows that is wrong"
    return Markup(
        f'<svg viewBox="0 0 300 300" role="img" aria-label="{label}" font-size="12" fill="currentColor">'
        f"{''.join(told)}</svg><figcaption>{label}; bars are 95% intervals. {calibrated.sentence}</figcaption>"
    )


def _fit(
    scores: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]
) -> Callable[[Float[np.ndarray, " n"]], Float64[np.ndarray, " n"]]:
    """A logistic curve through the scores' ranks among the known ones, as log odds: whatever a detector's scale is."""
    from sklearn.linear_model import LogisticRegression

    known = np.sort(scores)

    def feature(values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "n 1"]:
        below = np.searchsorted(known, values, side="left") + np.searchsorted(known, values, side="right")
        share = (below / 2 + 0.5) / (len(known) + 1)
        return np.asarray(np.log(share / (1 - share)))[:, None]

    model = LogisticRegression(C=1e3).fit(feature(scores), wrong)
    return lambda values: np.asarray(model.predict_proba(feature(values))[:, 1], dtype=np.float64)
