"""What RUN and INDEX may be: a recorded run, a plain Trainer folder, an index, and what is none of these."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import builders
import headwater as hw
from cli.conftest import headwater, write_rows
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.store import build

TEXT = "the heron loves long winters ."


def test_neither_run_nor_index(tmp_path: Path) -> None:
    for command in (("query", "--text", "a"), ("index",), ("verify",), ("estimate",)):
        name, *options = command
        called = headwater(name, tmp_path / "gone", *options)
        assert called.code == 1 and "gone: no such folder" in called.error
        called = headwater(name, tmp_path, *options)
        assert called.code == 1 and "neither a run" in called.error


def test_a_run_without_an_index_names_the_command(copied: Callable[[], Path]) -> None:
    run = copied()
    shutil.rmtree(run / "index")
    called = headwater("query", run, "--text", TEXT)
    assert called.code == 1 and f"headwater index {run}" in called.error


def test_an_unfinished_index_says_how_to_go_on(copied: Callable[[], Path]) -> None:
    run = copied()
    (run / "index" / "manifest.json").unlink()
    assert "unfinished" in headwater("query", run, "--text", TEXT).error
    assert headwater("index", run).code == 0
    assert headwater("query", run, "--text", TEXT).code == 0


def test_a_run_whose_checkpoints_are_gone(copied: Callable[[], Path]) -> None:
    run = copied()
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    called = headwater("index", run)
    assert called.code == 1 and "checkpoint-2" in called.error and "gone" in called.error


def test_an_index_of_another_run_is_refused(copied: Callable[[], Path], tmp_path: Path, made: Path) -> None:
    run = copied()
    (run / "checkpoint-4" / "config.json").write_text(
        (run / "checkpoint-4" / "config.json").read_text().replace('"channels": 50', '"channels":  50')
    )
    assert "another model" in headwater("query", run, "--text", TEXT).error
    assert "another model" in headwater("verify", run).error


def test_a_plain_trainer_folder_is_told_its_corpus_once(tmp_path: Path) -> None:
    rows = builders.rows(24)
    data = write_rows(tmp_path / "data.jsonl", [{"sentence": row["text"], "label": row["label"]} for row in rows])
    builders.train_plainly(tmp_path / "run", rows)
    run, plain = tmp_path / "run", ("--data", data, "--text-column", "sentence", "--max-length", 32)
    called = headwater("index", run)
    assert called.code == 2 and "--data FILE" in called.error
    assert headwater("estimate", run, *plain).code == 0
    assert headwater("index", run, *plain, "--json").json["rows"] == 24
    answers = [
        headwater("query", place, "--text", TEXT, "--json", *options).json["queries"]
        for place, options in ((run, ()), (run, plain), (run / "index", ()))
    ]
    assert answers[0] == answers[1] == answers[2] and answers[0][0]["proponents"]
    assert headwater("verify", run).code == 0
    write_rows(data, [{"sentence": row["text"] + " !", "label": row["label"]} for row in rows])
    assert "another corpus" in headwater("query", run, "--text", TEXT, *plain).error


def test_pairs_are_asked_in_pairs(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", builders.rows(24, pairs=True))
    train = ("train", "--data", data, "--text-pair-column", "pair", "--model", "textcnn", "--epochs", 1)
    assert headwater(*train, "--max-length", 32, "--vocabulary", 300, "--out", tmp_path / "run").code == 0
    assert headwater("index", tmp_path / "run").code == 0
    asked = ("query", tmp_path / "run", "--json")
    assert "--text-pair" in headwater(*asked, "--text", TEXT).error
    (query,) = headwater(*asked, "--text", TEXT, "--text-pair", "the river").json["queries"]
    assert query["text_pair"] == "the river"
    assert len(headwater(*asked, "--queries", data).json["queries"]) == 24


def big_run(folder: Path) -> hw.Run:
    """A run of three row ranges that takes some seconds to index."""
    tokenizer = builders.wordpiece_tokenizer()
    labels = {"label2id": builders.LABEL2ID, "id2label": {number: name for name, number in builders.LABEL2ID.items()}}
    torch.manual_seed(0)
    model = TextCNN(TextCNNConfig(vocab_size=len(tokenizer), max_length=32, pad_token_id=0, **labels))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    corpus = hw.Corpus.read([row for _ in range(42) for row in builders.rows(240)])
    return hw.Run.create(
        folder, checkpoints=[(folder / "model", 1.0)], corpus=corpus, task=hw.Classification(max_length=32)
    )


def test_an_interrupted_index_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = big_run(tmp_path / "run").folder
    write = build.write_segment

    def write_and_interrupt(*given: Any, **named: Any) -> None:
        write(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # Ctrl-C just after the first segment, whatever the machine's speed
        patched.setattr(build, "write_segment", write_and_interrupt)
        called = headwater("index", run)
    assert called.code == 130
    assert called.stderr.splitlines()[-1] == "Interrupted; run the same command again to resume."
    first = next(run.glob("index/segments/*/*.safetensors"))
    written = first.stat().st_mtime_ns
    told = headwater("estimate", run, "--json").json
    assert told["built_bytes"] == first.stat().st_size
    assert told["disk_bytes"] < 3 * told["built_bytes"]
    assert headwater("index", run, "--json").json["rows"] == 10_080
    assert first.stat().st_mtime_ns == written
    queries = write_rows(tmp_path / "q.jsonl", builders.rows(2))
    assert headwater("scores", run, "--queries", queries, "--out", tmp_path / "s.npy").code == 0
    assert np.load(tmp_path / "s.npy").shape == (2, 10_080)
