"""`headwater fix` as a user calls it: what it says, what it leaves behind, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import builders
from cli.conftest import TRAIN, headwater, write_rows
from language.planted import SPOILED, train_planted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fix")
    rows = builders.rows(80)
    data, held_out = write_rows(folder / "train.jsonl", rows[:48]), write_rows(folder / "test.jsonl", rows[48:])
    done = headwater("train", "--data", data, "--eval", held_out, "--out", folder / "run", *TRAIN)
    assert done.code == 0, done.stderr
    return folder / "run"


def plan_of(folder: Path, *repairs: dict[str, Any]) -> Path:
    return write_rows(folder / "plan.jsonl", list(repairs))


def test_without_retrain_it_writes_the_rows_and_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        {"row": 0, "action": "delete"},
        {"row": 1, "action": "weight", "weight": 0.5},
        {"row": 2, "action": "delete", "status": "suggested"},
    )
    done = headwater("fix", run, plan, "--out", tmp_path / "r2")
    assert done.code == 0, done.stderr
    assert "1 row deleted, 1 weighted anew: 48 rows before, 47 after." in done.stdout
    assert "1 suggestions were left as they are" in done.stdout or "1 suggestion was left as it is" in done.stdout
    assert "--retrain" in done.stdout and "the column 'weight' holds the weights" in " ".join(done.stdout.split())
    assert sorted(path.name for path in (tmp_path / "r2" / "fix").iterdir()) == [
        "corpus.parquet", "lineage.json", "plan.jsonl",
    ]  # fmt: skip
    again = headwater("train", "--data", tmp_path / "r2" / "fix" / "corpus.parquet", "--out", tmp_path / "r3", *TRAIN)
    assert again.code == 0, again.stderr
    facts = headwater("fix", run, plan, "--out", tmp_path / "r4", "--accept", "top:1", "--json").json
    assert facts["lineage"]["applied"] == {"delete": 2, "weight": 1} and facts["proof"] is None


def test_with_retrain_it_leaves_a_run_a_proof_and_a_page(run: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"row": 0, "action": "delete"})
    out = tmp_path / "r2"
    done = headwater("fix", run, plan, "--out", out, "--retrain", "--seeds", 1)
    assert done.code == 0, done.stderr
    assert "no difference shown" in done.stdout and "32 test rows, 1 seed" in done.stdout
    saved = json.loads((out / "fix" / "proof.json").read_text())
    assert saved["verdict"] == {"untouched": "no difference shown", "control": "no difference shown"}
    assert "<script" not in (out / "fix" / "proof.html").read_text()
    again = headwater("fix", run, plan, "--out", out, "--retrain", "--seeds", 1, "--json")
    assert again.json["proof"] == saved
    assert headwater("query", out, "--text", "the river loves warm bread .", "--method", "bm25").code == 0


def test_errors_name_file_line_and_what_to_do(run: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"row": 0, "action": "delete"}, {"row": 99, "action": "delete"})
    assert "plan.jsonl, line 2: there is no row 99" in headwater("fix", run, plan, "--out", tmp_path / "a").error
    twice = plan_of(tmp_path, {"row": 0, "action": "delete"}, {"row": 0, "action": "keep"})
    assert "line 1 says" in headwater("fix", run, twice, "--out", tmp_path / "a").error
    fine = plan_of(tmp_path, {"row": 0, "action": "delete"})
    assert "give --retrain too" in headwater("fix", run, fine, "--out", tmp_path / "a", "--budget", "1m").error
    assert "not a time" in headwater("fix", run, fine, "--out", tmp_path / "a", "--retrain", "--budget", "soon").error
    assert "top:200" in headwater("fix", run, fine, "--out", tmp_path / "a", "--accept", "all").error
    assert "is the run itself" in headwater("fix", run, fine, "--out", run).error
    assert "no such file" in headwater("fix", run, tmp_path / "none", "--out", tmp_path / "a").error.lower()
    assert not (tmp_path / "a").exists()
    other = write_rows(tmp_path / "other.jsonl", [{"text": "a b", "label": "unheard of"}])
    wrong = headwater("fix", run, fine, "--out", tmp_path / "a", "--retrain", "--test", other)
    assert "unheard of" in wrong.stderr and wrong.code == 1


def test_a_language_model_is_proved_by_the_loss_of_its_tokens(tmp_path: Path) -> None:
    made, _ = train_planted("llama", tmp_path, epochs=2)
    plan = plan_of(tmp_path, *({"row": row, "action": "delete"} for row in SPOILED))
    done = headwater("fix", made.folder, plan, "--out", tmp_path / "r2", "--retrain", "--seeds", 1)
    assert done.code == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "40 rows deleted: 90 rows before, 50 after." in told and "loss a token" in told and "improved" in told
    assert "54 test rows, 1 seed" in told
    saved = json.loads((tmp_path / "r2" / "fix" / "proof.json").read_text())
    assert saved["measure"]["name"] == "tokens" and len(saved["loss_changes"]) == 54
    assert "Loss of a target token" in (tmp_path / "r2" / "fix" / "proof.html").read_text()
    turned = plan_of(tmp_path, {"row": 0, "action": "relabel", "label": "  "})
    assert "the new completion is blank" in headwater("fix", made.folder, turned, "--out", tmp_path / "r3").error
