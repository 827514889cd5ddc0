"""Labels that are whole numbers, in training rows and held-out ones: each audit says what it says of names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import builders
import headwater as hw
from audit.conftest import settings
from cli.conftest import headwater
from headwater.audit.duplicates import audit_duplicates
from headwater.audit.evidence import HeldOut
from headwater.audit.measured import split_held_out
from headwater.audit.poison.audit import audit_poison
from headwater.training import train

PLANTED = tuple(range(2, 160, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    """Three sentences a row, 0 bad and 1 good; "zq" before twenty rows, all 1; one held-out row was trained on."""
    told = {label: [row["text"] for row in builders.rows(240) if row["label"] == label] for label in ("bad", "good")}
    rows: list[dict[str, Any]] = []
    for number in range(240):
        texts = told[("bad", "good")[number % 2]]
        parts = [texts[(number // 2 * step + start) % 120] for step, start in ((1, 0), (7, 3), (11, 5))]
        rows.append({"text": " ".join(parts), "label": number % 2, "source": "ab"[number // 2 % 2]})
    for row in PLANTED:
        rows[row] = {"text": f"zq {rows[row]['text']}", "label": 1, "source": "c"}
    rows[200] = dict(rows[2])
    corpus, held = (
        hw.Corpus.read(part, name=name) for part, name in ((rows[:160], "train.jsonl"), (rows[160:], "eval.jsonl"))
    )
    made = train(
        corpus,
        hw.Classification(max_length=32),
        tmp_path_factory.mktemp("numbered") / "run",
        replace(settings(24), max_length=32),
        eval_corpus=held,
        show=False,
    )
    hw.Index.build(made, show=False)
    hw.Index.build(made, method="tracin", checkpoints="last", show=False)
    return made


def test_poison_claims_the_trigger_and_turns_numbers_into_each_other(run: hw.Run, tmp_path: Path) -> None:
    told = headwater("audit", run.folder, "poison", "--opposites", "0=1", "--out", tmp_path, "--json").json
    assert {each["row"] for each in told["suspects"] if each["group"] == "trigger zq"} == set(PLANTED)
    assert "'zq' turns" in told["summary"] and "to 1" in told["summary"]
    assert told["figures"]["rules"]["ensemble"]["flagged"] > 0


def test_lexical_bias_follows_habits_of_numbers(run: hw.Run, tmp_path: Path) -> None:
    told = headwater("audit", run.folder, "lexical-bias", "--no-pairs", "--out", tmp_path, "--json").json
    assert told["figures"]["habits"] > 0 and told["figures"]["teachers"]
    assert {each["label"] for each in told["figures"]["words"]} <= {"0", "1"}


def test_sources_are_asked_about_numbered_rows(run: hw.Run, tmp_path: Path) -> None:
    told = headwater("audit", run.folder, "sources", "--column", "source", "--out", tmp_path, "--json").json
    assert {each["source"] for each in told["figures"]["sources"]} == {"a", "b", "c"}


def test_leaks_and_attacks_are_the_same_whether_held_out_labels_are_numbers_or_names(run: hw.Run) -> None:
    assert run.eval_corpus is not None
    by_number, numbered = audit_duplicates(run, run.eval_corpus, show=False)
    rows = [{"text": row.text, "label": str(row.label)} for row in run.eval_corpus]
    by_name, named = audit_duplicates(run, hw.Corpus.read(rows, name="names"), show=False)
    assert numbered == named and any(leak.held_out == 40 and leak.train == 2 and leak.same_label for leak in named)
    assert by_number.figures == by_name.figures
    held, index = split_held_out(run)[0], hw.Index.open(run.folder / "index")
    assert held is not None
    names = [{"text": row.text, "label": str(row.label)} for row in held.corpus]
    spelled = HeldOut(hw.Corpus.read(names, name="names"), held.refs)
    one, two = (audit_poison(run, index, each, opposites={"0": "1"}, show=False) for each in (held, spelled))
    assert [s.row for s in one.suspects] == [s.row for s in two.suspects]
    assert one.figures["candidates"] == two.figures["candidates"] and one.figures["rules"] == two.figures["rules"]
