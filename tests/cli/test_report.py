"""`headwater report`: one page about a model's mistakes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import builders
import headwater as hw
from cli.conftest import TRAIN, headwater, write_rows
from headwater.training import predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with evaluation rows, indexed: a model that is often wrong."""
    folder = tmp_path_factory.mktemp("report")
    train = write_rows(folder / "train.jsonl", builders.rows(60, seed=1))
    held = write_rows(folder / "held.jsonl", builders.rows(40, seed=2))
    done = headwater("train", "--data", train, "--eval", held, *TRAIN, "--epochs", 1, "--out", folder / "run")
    assert done.code == 0, done.stderr
    assert headwater("index", folder / "run").code == 0
    return folder


def _said(folder: Path) -> tuple[hw.Run, Any]:
    run = hw.Run.open(folder / "run")
    assert run.eval_corpus is not None
    return run, predict(run.checkpoints[-1].load(), run.tokenizer, run.task, run.eval_corpus)


def test_the_page_explains_the_wrong_predictions_of_the_held_out_rows_worst_first(trained: Path) -> None:
    _, said = _said(trained)
    told = headwater("report", trained / "run", "--out", trained / "a.html", "--limit", 5, "--json").json
    wrong = np.flatnonzero(~said.correct)
    worst = wrong[np.argsort(-said.losses[wrong], kind="stable")]
    assert told["explained"] == worst[:5].tolist() and told["wrong"] == len(wrong) > 0
    assert told["accuracy"] == pytest.approx(said.accuracy)
    assert np.trace(told["confusion"]) == said.correct.sum() and np.sum(told["confusion"]) == 40
    page = (trained / "a.html").read_text()
    assert len(re.findall("<section class=query", page)) == len(told["explained"])
    assert f">{said.accuracy:.1%}<" in page and "true label" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_another_file_the_true_labels_and_all_rows_can_be_asked_for(trained: Path) -> None:
    rows = write_rows(trained / "asked.jsonl", builders.rows(6, seed=3))
    wish = ("--queries", rows, "--which", "all", "--explain", "label", "--out", trained / "b.html", "--json")
    told = headwater("report", trained / "run", *wish).json
    assert told["name"] == "asked.jsonl" and sorted(told["explained"]) == list(range(6))
    assert "given label" in (trained / "b.html").read_text()


def test_training_text_can_be_left_out(trained: Path) -> None:
    run = hw.Run.open(trained / "run")
    assert run.eval_corpus is not None
    asked = " | ".join(example.text for example in run.eval_corpus)
    texts = [example.text for example in run.corpus if example.text not in asked]
    wish = ("--hide-training-text", "--which", "all", "--limit", 8, "--out", trained / "c.html")
    assert headwater("report", trained / "run", *wish).code == 0
    page = (trained / "c.html").read_text()
    assert texts and not any(text in page for text in texts)


def test_a_file_without_labels_is_refused(trained: Path) -> None:
    rows = write_rows(trained / "bare.jsonl", [{"text": "a good film"}])
    assert "label" in headwater("report", trained / "run", "--queries", rows, "--out", trained / "d.html").error
    assert not (trained / "d.html").exists()


def test_a_run_without_held_out_rows_says_how_to_name_a_file(trained: Path) -> None:
    run = trained / "alone"
    assert headwater("train", "--data", trained / "train.jsonl", *TRAIN, "--out", run).code == 0
    assert headwater("index", run).code == 0
    assert "--queries FILE" in headwater("report", run, "--out", trained / "e.html").error


def test_fifty_questions_of_long_rows_make_a_page_that_can_be_mailed(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(900)]
    drawn = np.random.default_rng(0)

    def rows(count: int) -> list[dict[str, Any]]:
        return [
            {"text": " ".join(drawn.choice(words, 300)), "label": ["bad", "good"][int(drawn.integers(2))]}
            for _ in range(count)
        ]

    train, asked = write_rows(tmp_path / "train.jsonl", rows(200)), write_rows(tmp_path / "asked.jsonl", rows(60))
    wish = ("--model", "textcnn", "--epochs", 1, "--max-length", 400, "--vocabulary", 2000)
    assert headwater("train", "--data", train, *wish, "--out", tmp_path / "run").code == 0
    assert headwater("index", tmp_path / "run").code == 0
    page = tmp_path / "page.html"
    told = headwater("report", tmp_path / "run", "--queries", asked, "--which", "all", "--out", page, "--json").json
    assert len(told["explained"]) == 50
    assert told["bytes"] == page.stat().st_size < 2e6
