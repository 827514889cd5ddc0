"""From a file of rows to the rows and words behind a prediction, by commands alone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import builders
from cli.conftest import TRAIN, headwater, headwater_process, write_rows

TEXT = "the heron loves long winters ."


def test_training_says_what_it_made(tmp_path: Path, made: Path) -> None:
    called = headwater(
        *("train", "--data", made / "train.jsonl", "--eval", made / "test.jsonl", *TRAIN),
        *(
            "--checkpoints",
            3,
            "--batch-size",
            10,
            "--learning-rate",
            0.002,
            "--seed",
            7,
            "--out",
            tmp_path / "run",
            "--json",
        ),
    )
    assert called.code == 0, called.stderr
    told = called.json
    assert told["rows"] == 60 and told["labels"] == builders.LABEL2ID and told["max_length"] == 16
    assert len(told["checkpoints"]) == 3 and all(point["weight"] > 0 for point in told["checkpoints"])
    assert told["eval"]["rows"] == 30 and 0 <= told["eval"]["accuracy"] <= 1
    assert (tmp_path / "run" / "headwater" / "eval.parquet").is_file()


def test_a_query_gives_the_documented_shape(made: Path) -> None:
    called = headwater("query", made / "run", "--text", TEXT, "--label", "bad", "-k", 3, "--json")
    assert called.code == 0, called.stderr
    answer = called.json
    assert answer["method"] == "tracin-we"
    (query,) = answer["queries"]
    assert query["text"] == TEXT and query["label"] == "bad" and query["predicted"] in ("bad", "good")
    assert math.isfinite(query["loss"])
    assert len(query["proponents"]) == 3 and len(query["opponents"]) == 3
    for row in query["proponents"] + query["opponents"]:
        assert {"example", "id", "score", "percentile", "text", "label", "words"} <= row.keys()
        assert row["text"] == json.loads((made / "train.jsonl").read_text().splitlines()[row["example"]])["text"]
        assert sum(word["score"] for word in row["words"]) == pytest.approx(row["score"], rel=1e-9)
        assert all({"train", "query", "score"} <= word.keys() for word in row["words"])


def test_stdout_of_a_real_process_is_json_only(made: Path, tmp_path: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", [{"text": TEXT * 9, "label": "good"}, {"text": TEXT, "label": "bad"}])
    called = headwater_process("query", made / "run", "--queries", long, "--json", "-k", 2, HEADWATER_QUIET="")
    assert called.code == 0, called.stderr
    first, second = called.json["queries"]
    assert (first["label"], second["label"]) == ("good", "bad") and first["label_source"] == "given"
    assert "longer than 16 tokens" in first["notes"][0] and second["notes"] == []


def test_scores_are_those_that_a_query_shows(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.npy"
    told = headwater("scores", made / "run", "--queries", made / "test.jsonl", "--out", out, "--json").json
    assert told["labels"] == "given" and (told["queries"], told["rows"]) == (30, 60)
    scores = np.load(out)
    assert scores.dtype == np.float32 and scores.shape == (30, 60)
    answer = headwater("query", made / "run", "--queries", made / "test.jsonl", "-k", 1, "--json").json
    for row, query in zip(scores, answer["queries"], strict=True):
        assert row.max() == pytest.approx(query["proponents"][0]["score"], rel=1e-5)


def test_scores_say_whose_labels_they_took(made: Path, tmp_path: Path) -> None:
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": TEXT}])
    called = headwater("scores", made / "run", "--queries", texts, "--out", tmp_path / "a.npy")
    assert "the labels that the model predicts" in called.stdout
    called = headwater("scores", made / "run", "--queries", made / "test.jsonl", "--out", tmp_path / "b.npy")
    assert "the labels of test.jsonl" in called.stdout
    told = headwater(
        "scores", made / "run", "--queries", made / "test.jsonl", "--predicted", "--out", tmp_path / "c.npy", "--json"
    ).json
    assert told["labels"] == "predicted"


def test_options_of_the_method_reach_it(made: Path) -> None:
    asked = ("query", made / "run", "--text", TEXT, "--json", "--checkpoints", "checkpoint-4")
    options = headwater(*asked, "--max-words", 3, "--no-special-tokens", "--normalize", "both").json["options"]
    assert options["max_words"] == 3 and options["special_tokens"] is False and options["normalize"] == "both"
    assert options["checkpoints"] == ["checkpoint-4"] and options["synonyms"] is False


def test_where_and_collapse_choose_the_rows_shown(made: Path, tmp_path: Path) -> None:
    rows = builders.rows(20) + builders.rows(5)
    for number, row in enumerate(rows):
        row["source"] = "web" if number % 2 else "book"
    run = tmp_path / "run"
    headwater("train", "--data", write_rows(tmp_path / "t.jsonl", rows), *TRAIN, "--out", run)
    headwater("index", run)
    asked = ("query", run, "--text", rows[0]["text"], "-k", 50, "--json")

    def shown(*options: str) -> list[int]:
        (query,) = headwater(*asked, *options).json["queries"]
        return [row["example"] for row in query["proponents"] + query["opponents"]]

    assert {row % 2 for row in shown("--where", "source=web")} == {1}
    assert {rows[row]["label"] for row in shown("--where", "source=web", "--where", "label=bad")} == {"bad"}
    assert set(shown("--where", "label=bad", "--where", "label=good")) == set(shown())
    texts = [rows[row]["text"] for row in shown("--collapse")]
    assert len(texts) == len(set(texts)) < len(shown())


def test_several_indexes_are_averaged(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "seed-1"
    headwater("train", "--data", made / "train.jsonl", *TRAIN, "--seed", 1, "--out", other)
    headwater("index", other, "--out", tmp_path / "elsewhere")
    queries = ("--queries", made / "test.jsonl", "--label-column", "label", "--json", "--out")
    both, one, two = (tmp_path / f"{name}.npy" for name in ("both", "one", "two"))
    for places, out in (((made / "run", tmp_path / "elsewhere"), both), ((made / "run",), one)):
        assert headwater("scores", *places, *queries, out).code == 0
    assert headwater("scores", tmp_path / "elsewhere", *queries, two).code == 0
    assert np.allclose(np.load(both), (np.load(one) + np.load(two)) / 2, atol=1e-9)


def test_hidden_training_text_is_in_no_output(made: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (made / "train.jsonl").read_text().splitlines()]
    page = tmp_path / "why.html"
    called = headwater(
        *("query", made / "run", "--text", "unbelievable", "--hide-training-text", "--json", "--html", page)
    )
    assert called.code == 0, called.stderr
    (query,) = called.json["queries"]
    assert query["proponents"] and all(row["text"] is None for row in query["proponents"])
    for row in rows:
        assert row["text"] not in called.stdout and row["text"] not in page.read_text()


def test_an_index_of_fewer_words_is_smaller(made: Path, tmp_path: Path) -> None:
    sizes = {}
    for name, options in {"all": (), "few": ("--max-words", 2), "wide": ("--dtype", "float32")}.items():
        told = headwater(
            "index", made / "run", "--out", tmp_path / name, "--checkpoints", "last", *options, "--json"
        ).json
        assert told["checkpoints"] == ["checkpoint-4"] and told["rows"] == 60
        sizes[name] = told["bytes"]
    assert sizes["few"] < sizes["all"] < sizes["wide"]


def test_what_an_index_will_cost(made: Path, tmp_path: Path) -> None:
    told = headwater("estimate", made / "run", "--out", tmp_path / "new", "--json").json
    assert told["rows"] == 60 and told["checkpoints"] == 2 and told["fits"] is True
    assert told["disk_bytes"] > 10_000 and told["memory_bytes"] > 1e7
    assert not (tmp_path / "new").exists()
    finished = headwater("estimate", made / "run", "--json").json
    assert finished["seconds"] == 0 and finished["disk_bytes"] == 0 and finished["built_bytes"] > 10_000
