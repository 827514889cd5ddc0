"""`headwater evaluate`: the table by the command line alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import builders
from cli.conftest import TRAIN, headwater, headwater_process, write_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that keeps evaluation rows, and a file of queries."""
    folder = tmp_path_factory.mktemp("trained")
    rows = builders.rows(60)
    write_rows(folder / "train.jsonl", rows[:40])
    write_rows(folder / "test.jsonl", rows[40:])
    write_rows(folder / "asked.jsonl", [{"said": row["text"], "as": row["label"]} for row in rows[40:43]])
    called = headwater(
        *("train", "--data", folder / "train.jsonl", "--eval", folder / "test.jsonl", *TRAIN),
        *("--out", folder / "run"),
    )
    assert called.code == 0, called.stderr
    return folder


def test_the_table_the_page_and_what_it_cost(trained: Path, tmp_path: Path) -> None:
    scores = tmp_path / "S.npy"
    np.save(scores, np.random.default_rng(0).normal(size=(3, 40)))
    arguments = (
        *("evaluate", trained / "run", "--methods", "tracin-we,tracin/layers=last", "--metrics", "lds,hubness"),
        *("--queries", 3, "--retrains", 8, "--scores", f"theirs={scores}", "--out", tmp_path / "out"),
    )
    called = headwater_process(*arguments, COLUMNS="100")
    assert called.code == 0, called.stderr
    assert (
        "At most 8 retrainings of" in called.stderr and f"Wrote {tmp_path / 'out' / 'evaluation.html'}" in called.stderr
    )
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for result in told["results"]:
        assert f"{result['value']:.3f}" in called.stdout, result
    for name in ("tracin-we", "tracin/layers=last", "theirs", "bm25-label", "tfidf-label", "random", "noise ceiling"):
        assert name in called.stdout
    assert "lds: 4 of 100 subsets wished for, 8 retrainings." in called.stdout
    table = called.stdout[: called.stdout.index("lds: ")]
    assert max(map(len, table.splitlines())) <= 100
    again = headwater(*arguments, "--json")
    assert again.code == 0 and again.json["results"] == told["results"]
    assert [each["index_seconds"] for each in again.json["methods"]] == [
        each["index_seconds"] for each in told["methods"]
    ]


def test_a_file_of_queries_may_have_other_columns(trained: Path, tmp_path: Path) -> None:
    called = headwater(
        *("evaluate", trained / "run", "--metrics", "hubness", "--no-baselines", "--queries", trained / "asked.jsonl"),
        *("--query-text-column", "said", "--query-label-column", "as", "--out", tmp_path / "out", "--json"),
    )
    assert called.code == 0, called.stderr
    assert called.json["queries"] == 3 and [each["method"] for each in called.json["methods"]] == ["tracin-we"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "0"), "a budget of 0 s is too small: the least that these methods and metrics need is about"),
        (("--retrains", "0"), "retrains 0: the least is 6 (lds 6)"),
        (("--scores", "S.npy"), "write it as NAME=FILE.npy"),
        (("--scores", "x=none.npy"), "none.npy: no such file"),
        (("--grid", "10;20"), "write it as 10,20,50"),
        (("--queries", "none.jsonl"), "none.jsonl"),
        (("--metrics", "ndr"), "noise"),
        (("--methods", "nothing"), "there is no method 'nothing'"),
    ],
)
def test_mistakes_are_one_line(trained: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    called = headwater("evaluate", trained / "run", "--queries", "3", "--out", tmp_path / "out", *arguments)
    assert message in called.error
