"""Metrics that need a file or a column, by the command line alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import builders
from cli.conftest import TRAIN, headwater, write_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, queries, and test rows of which two are queries."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [row | {"source": f"s{number % 3}"} for number, row in enumerate(builders.rows(50))]
    write_rows(folder / "train.jsonl", rows[:24])
    write_rows(folder / "asked.jsonl", rows[24:27])
    write_rows(folder / "test.jsonl", rows[25:50])
    called = headwater("train", "--data", folder / "train.jsonl", *TRAIN, "--out", folder / "run")
    assert called.code == 0, called.stderr
    return folder


def test_all_of_them_stand_in_one_table(trained: Path, tmp_path: Path) -> None:
    called = headwater(
        *("evaluate", trained / "run", "--metrics", "filtering,groups,facts,word-deletion", "--no-baselines"),
        *("--queries", trained / "asked.jsonl", "--test", trained / "test.jsonl", "--words", "2,4", "--draws", 1),
        *("--group-column", "source", "--fact-column", "source", "--seeds", 1, "--out", tmp_path / "out", "--json"),
    )
    assert called.code == 0, called.stderr
    told = {cell["metric"]: cell for cell in called.json["results"]}
    for name in ("accuracy", "groups", "mrr", "hit@10", "word-del probability", "word-del probability vs random"):
        assert told[name]["value"] is not None and math.isfinite(told[name]["value"]), name
    assert told["accuracy"]["queries"] == called.json["settings"]["test_rows"] == 23
    assert called.json["settings"]["words"] == [2, 4]
    filtering, groups, words = 3, 4, 1 + 3 * 2 * 2
    assert called.json["retrainings"]["count"] == filtering + groups + words
    page = (tmp_path / "out" / "evaluation.html").read_text()
    for metric in ("filtering", "groups", "facts", "word-deletion"):
        assert f"<h2>{metric}</h2>" in page


def test_what_does_not_fit_is_said_in_a_sentence(trained: Path, tmp_path: Path) -> None:
    asked = ("evaluate", trained / "run", "--queries", trained / "asked.jsonl", "--out", tmp_path / "out")
    called = headwater(*asked, "--metrics", "word-deletion", "--words", "2;4")
    assert called.code != 0 and "--words 2;4: write it as 10,20,50." in called.stderr
    called = headwater(*asked, "--metrics", "filtering")
    assert called.code != 0 and "keeps no evaluation rows to test on" in called.stderr
    called = headwater(*asked, "--metrics", "facts")
    assert called.code != 0 and "fact_column" in called.stderr
    assert not (tmp_path / "out").exists()
