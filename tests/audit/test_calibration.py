"""Confidence: calibrated on what is known, by a curve that is told from rows it did not see; too few is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audit.conftest import Made
from cli.conftest import headwater
from headwater.audit.calibration import calibrate, read_reviewed, reliability
from headwater.errors import DataError


def known(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which the upper ones are wrong more often: odds that follow the score's rank."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(size=count)
    return scores, generator.uniform(size=count) < scores


def test_confidence_is_the_share_that_is_wrong() -> None:
    found = calibrate("reviewed", *known(4000))
    for score in (0.2, 0.5, 0.9):
        assert abs(found.confidence(score)[0] - score) < 0.05
    assert abs(found.brier - 1 / 6) < 0.01  # the mean of p (1 - p) for p uniform
    for band in found.bands:
        assert band.low <= band.wrong / band.rows <= band.high and abs(band.confidence - band.wrong / band.rows) < 0.06


def test_scores_that_know_nothing_get_the_share_of_all_and_its_brier_score() -> None:
    generator = np.random.default_rng(1)
    wrong = generator.uniform(size=2000) < 0.1
    found = calibrate("planted", generator.uniform(size=2000), wrong)
    assert abs(found.confidence(0.99)[0] - 0.1) < 0.05
    assert abs(found.brier - wrong.mean() * (1 - wrong.mean())) < 0.002


def test_only_the_order_of_scores_counts() -> None:
    scores, wrong = known(300)
    one, two = calibrate("reviewed", scores, wrong), calibrate("reviewed", np.exp(9 * scores), wrong)
    assert one.confidence(0.7)[0] == pytest.approx(two.confidence(float(np.exp(6.3)))[0])


def test_too_few_known_rows_are_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        calibrate("reviewed", np.arange(10.0), np.arange(10) > 5)
    with pytest.raises(DataError, match="1 wrong"):
        calibrate("reviewed", np.arange(30.0), np.arange(30) > 28)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("row,wrong\n3,yes\n999,no\n", "line 3: row '999'"),
        ("row,wrong\n3,maybe\n", "line 2: wrong is 'maybe'"),
        ("row,wrong\n3,yes\n3,no\n", "line 3: row 3 was told otherwise"),
        ("text\nhello\n", "columns row and wrong"),
        ("", "columns row and wrong"),
    ],
)
def test_a_mistake_in_the_reviewed_rows_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "marks.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        read_reviewed(tmp_path / "marks.csv", 120)
    with pytest.raises(DataError, match="cannot be read"):
        read_reviewed(tmp_path / "none.csv", 120)


def test_the_plot_shows_every_band() -> None:
    drawn = reliability(calibrate("reviewed", *known(200)))
    assert drawn.count("<circle") == 5 and "Brier score" in drawn


def test_reviewed_rows_make_the_others_confident_and_are_not_suggested_again(noisy: Made, tmp_path: Path) -> None:
    rows = [row for row in range(120) if row not in noisy.flipped[:2]]
    marks = "row,wrong\n" + "".join(f"{row},{'yes' if row in noisy.flipped else 'no'}\n" for row in rows[:110])
    (tmp_path / "marks.csv").write_text(marks, encoding="utf-8")
    command = ["audit", noisy.run.folder, "mislabels", "--reviewed", tmp_path / "marks.csv", "--top", 8]
    told = headwater(*command, "--out", tmp_path / "out", "--json").json
    sure = {each["row"]: each["confidence"] for each in told["suspects"]}
    assert not sure.keys() & set(rows[:110])
    assert all(sure[row] > 0.4 for row in noisy.flipped[:2]) and min(sure.values()) < 0.3
    assert told["figures"]["calibration"]["rows"] == 110 and told["suspects"][0]["calibration"]["method"] == "reviewed"
    assert "<svg" in (tmp_path / "out" / "worklist.html").read_text(encoding="utf-8")


def test_planted_flips_calibrate_and_are_said_to_be_optimistic(noisy: Made, tmp_path: Path) -> None:
    command = ["audit", noisy.run.folder, "mislabels", "--plant", "10%", "--top", 6, "--out", tmp_path / "out"]
    told = headwater(*command, "--json").json
    assert "optimistic" in told["how_sure"] and told["figures"]["calibration"]["wrong"] == 12
    assert told["suspects"][0]["confidence"] > told["suspects"][-1]["confidence"] - 1e-9
    assert "half" in headwater("audit", noisy.run.folder, "mislabels", "--plant", "80%").error
