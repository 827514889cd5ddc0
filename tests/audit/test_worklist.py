"""Worklists: equal plans, all reasons shown and escaped, nothing to repair; and what a row's reasons are."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import headwater as hw
from audit.conftest import Made
from headwater.attribution.neighbours import nearest_rows
from headwater.audit.evidence import HeldOut, evidence_of
from headwater.audit.page import render_worklist
from headwater.audit.worklist import Cost, Suspect, Worklist, share_of_rows
from headwater.errors import DataError
from headwater.remedies.apply import planned
from headwater.remedies.plan import Evidence, read_plan


def worklist_of(corpus: hw.Corpus, *suspects: Suspect) -> Worklist:
    return Worklist(
        "mislabels",
        corpus,
        suspects,
        "Two rows of 120.",
        "Nobody knows.",
        Cost(2.0, 1_000_000, 120),
        {"loss": "the loss"},
    )


def two(corpus: hw.Corpus) -> tuple[Suspect, Suspect]:
    label = "bad" if corpus[5].label == "good" else "good"
    reason = Evidence("query", ref=3, text="<b>why</b>", label="good", name="hurts", value=-0.5)
    return (
        Suspect(
            5, "relabel", 0.9, label, percentiles={"loss": 0.99}, words=("=1+1",), evidence=(reason,), confidence=0.8
        ),
        Suspect(7, "delete", 0.8, percentiles={"loss": 0.97}),
    )


def test_a_plan_of_suggestions_is_read_back_and_applied(noisy: Made, tmp_path: Path) -> None:
    corpus = noisy.run.corpus
    made = worklist_of(corpus, *two(corpus))
    plan = made.plan(noisy.run, "headwater audit", 0)
    plan.write(tmp_path / "plan.jsonl")
    read = read_plan(tmp_path / "plan.jsonl")
    assert read.repairs == plan.repairs and read.header == plan.header
    assert {repair.status for repair in read.repairs} == {"suggested"}
    change = planned(read, corpus, ["top:2"], classes=True)
    after = change.apply(corpus)
    assert len(after) == 119 and after[5].label != corpus[5].label
    assert not planned(read, corpus, [], classes=True).rows
    assert made.plan(noisy.run, "headwater audit", 0).lines() == plan.lines()


def test_an_edit_remembers_what_it_replaces(noisy: Made) -> None:
    corpus = noisy.run.corpus
    plan = worklist_of(corpus, Suspect(0, "edit", 1.0, fields={"text": "the river"})).plan(noisy.run)
    assert plan.repairs[0].was == {"fields": {"text": corpus[0].text}}
    with pytest.raises(DataError, match="relabel needs"):
        worklist_of(corpus, Suspect(0, "relabel", 1.0)).plan(noisy.run)


def test_the_page_shows_every_reason_escaped_and_no_script(noisy: Made) -> None:
    page = render_worklist(worklist_of(noisy.run.corpus, *two(noisy.run.corpus)), run="run", command="headwater audit")
    assert "&lt;b&gt;why&lt;/b&gt;" in page and "<b>why</b>" not in page and "<script" not in page
    assert "relabel to" in page and "not calibrated" in page and "0.80" in page and "the loss" in page
    assert page == render_worklist(
        worklist_of(noisy.run.corpus, *two(noisy.run.corpus)), run="run", command="headwater audit"
    )


def test_csv_and_json_tell_the_same_rows(noisy: Made) -> None:
    made = worklist_of(noisy.run.corpus, *two(noisy.run.corpus))
    lines = list(csv.DictReader(io.StringIO(made.csv())))
    told = json.loads(json.dumps(made.to_dict()))
    assert [int(line["row"]) for line in lines] == [each["row"] for each in told["suspects"]] == [5, 7]
    assert lines[0]["hurts"] == "<b>why</b>" and lines[1]["confidence"] == "not calibrated"
    assert told["cost"]["rows_per_second"] == 60


def test_no_suspects_is_an_answer(noisy: Made) -> None:
    made = worklist_of(noisy.run.corpus)
    assert made.summary.startswith("Nothing to repair") and made.plan(noisy.run).repairs == ()
    assert "Nothing to repair" in render_worklist(made, run="run")


def test_percentiles_count_the_rows_that_are_no_more_suspect() -> None:
    np.testing.assert_allclose(share_of_rows([3.0, 1.0, 3.0, 2.0]), [1.0, 0.25, 1.0, 0.5])


def test_reasons_are_the_lowest_scores_and_the_nearest_rows(noisy: Made) -> None:
    run, index = noisy.run, noisy.index
    assert run.eval_corpus is not None
    held_out = HeldOut(run.eval_corpus.take(range(20)), tuple(range(20)))
    features = np.random.default_rng(0).normal(size=(len(run.corpus), 5)).astype(np.float32)
    found = evidence_of([3, 11], run.corpus, index=index, held_out=held_out, features=features)
    for row in (3, 11):
        by_hand = [
            (float(index.scores(query.text, [query.label], normalize="train", show=False)[0, row]), query.row)
            for query in held_out.corpus
        ]
        worst = [pair for pair in sorted(by_hand)[:3] if pair[0] < 0]
        queries = [each for each in found[row].evidence if each.kind == "query"]
        assert [each.ref for each in queries] == [number for _, number in worst]
        np.testing.assert_allclose([each.value for each in queries], [score for score, _ in worst], rtol=1e-4)
        words = [each for each in found[row].evidence if each.kind == "word"]
        assert 0 < len(words) <= 3 and all(each.value is not None and each.value < 0 for each in words)
        assert all(str(word.train_word) in str(run.corpus[row].text) for word in words)
        cosines = features @ features[row] / np.linalg.norm(features, axis=1) / np.linalg.norm(features[row])
        cosines[row] = -2
        rows = [each.ref for each in found[row].evidence if each.kind == "row"]
        assert rows == np.argsort(-cosines)[:3].tolist()


def test_nearest_rows_do_not_depend_on_blocks_and_prefer_the_first_of_equals() -> None:
    features = np.ones((700, 3), dtype=np.float32)
    near, cosines = nearest_rows(features, np.arange(600), k=3)
    assert near.shape == (600, 3) and not (near == np.arange(600)[:, None]).any()
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-6)
    assert nearest_rows(features[:1], np.array([0]), k=3)[0].shape == (1, 0)
