"""The main job of a language model by the command line alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.conftest import headwater, write_rows
from language.texts import PAIRS, bert_tokenizer, lm_tokenizer, pair_rows, tiny_lm


def _files(folder: Path, kind: str) -> Path:
    tiny_lm(kind).save_pretrained(folder / "base")
    (bert_tokenizer() if kind == "t5" else lm_tokenizer()).save_pretrained(folder / "base")
    chat = [[{"role": "user", "content": p}, {"role": "assistant", "content": c.strip()}] for p, c in PAIRS]
    write_rows(folder / "pairs.jsonl", pair_rows())
    write_rows(folder / "named.jsonl", [{"source": p, "target": c} for p, c in PAIRS])
    write_rows(folder / "chat.jsonl", [{"messages": turns} for turns in chat])
    write_rows(folder / "plain.jsonl", [{"text": p + c} for p, c in PAIRS])
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", ["--task", "causal-lm", "--data", "pairs.jsonl", "--separator", ""]),
        ("llama", ["--task", "causal-lm", "--data", "chat.jsonl", "--reduction", "mean"]),
        ("llama", ["--task", "causal-lm", "--data", "plain.jsonl", "--no-end"]),
        ("t5", ["--task", "seq2seq", "--data", "named.jsonl", "--prompt-column", "source", "--completion-column",
                "target", "--max-target-length", "8"]),
    ],
)  # fmt: skip
def test_train_index_and_query(kind: str, options: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(_files(tmp_path, kind))
    held_out = options[3]
    trained = headwater(
        "train", *options, "--eval", held_out, "--model", "base", "--epochs", 2, "--out", "run", "--json"
    )
    assert trained.code == 0, trained.stderr
    facts = trained.json
    assert facts["task"] == options[1] and facts["labels"] == {} and facts["eval"]["perplexity"] > 1
    indexed = headwater("index", "run", "--json")
    assert indexed.code == 0, indexed.stderr
    given = headwater("query", "run", "--text", PAIRS[0][0], "--label", PAIRS[0][1], "-k", 2, "--json").json["queries"][
        0
    ]
    assert given["label_source"] == "given" and given["text_pair"] == given["label"] == PAIRS[0][1]
    assert given["proponents"] or given["opponents"]
    own = headwater("query", "run", "--text", PAIRS[0][0], "--max-new-tokens", 3, "-k", 2, "--json").json["queries"][0]
    assert own["label_source"] == "predicted" and own["predicted"] == own["label"]
    shown = headwater("query", "run", "--text", PAIRS[0][0], "--label", PAIRS[0][1])
    assert shown.code == 0 and PAIRS[0][1].strip() in shown.stdout


def test_a_plain_trainer_folder_is_told_its_task(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(_files(tmp_path, "llama"))
    task = ["--data", "pairs.jsonl", "--task", "causal-lm"]
    done = headwater("train", *task, "--model", "base", "--epochs", 2, "--max-length", 32, "--out", "run")
    assert done.code == 0, done.stderr
    for file in (tmp_path / "run" / "headwater").rglob("*.json"):
        if file.name == "run.json":
            file.unlink()
    done = headwater("index", "run", *task, "--max-length", 32)
    assert done.code == 0, done.stderr
    own = headwater("query", "run", "--text", PAIRS[0][0], "--label", PAIRS[0][1], "--json").json
    assert own["queries"][0]["text_pair"] == PAIRS[0][1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chat"], "--chat goes with --task causal-lm"),
        (
            ["--task", "pairs", "--text-column", "prompt", "--label-column", "completion"],
            "--task pairs needs --text-pair-column",
        ),
        (["--task", "causal-lm", "--text-pair-column", "b"], "has no second text"),
        (["--task", "seq2seq", "--no-end"], "--no-end goes with --task causal-lm"),
        (["--task", "seq2seq"], "use CausalLM, not Seq2Seq"),
        (["--task", "causal-lm", "--prompt-column", "question"], "there is no column 'question'"),
        (["--task", "causal-lm", "--model", "minilm"], "sees the tokens it is to predict"),
    ],
)
def test_options_that_do_not_go_together_are_told_in_one_line(
    options: list[str], said: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(_files(tmp_path, "llama"))
    model = [] if "--model" in options else ["--model", "base"]
    called = headwater("train", "--data", "pairs.jsonl", *model, *options, "--out", "run")
    assert said in called.error
    assert not (tmp_path / "run").exists()
