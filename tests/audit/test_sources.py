"""Sources: UnTrac to first order is the inner product of gradients; a source of wrong labels hurts, truth agrees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import builders
import headwater as hw
from audit.conftest import flip, settings
from cli.conftest import headwater
from headwater.audit.sources import INVERSE, SUMS, TRUTH, UNTRAC, audit_sources, grades, sources_of, summed
from headwater.audit.untrac import Unlearner, Unlearning
from headwater.errors import DataError, UsageError
from headwater.models.load import load_model
from headwater.runs import Columns
from headwater.training import train

SOURCES = ("books", "mail", "web", "wrong")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[hw.Run, hw.Index]:
    """120 rows of four sources, of which "wrong" has every label flipped."""
    rows = builders.rows(200)
    for number, row in enumerate(rows):
        row["source"] = SOURCES[number % 4]
        if row["source"] == "wrong" and number < 120:
            row["label"] = flip(row["label"])
    columns = Columns(text="text", label="label")
    held = [{"text": row["text"], "label": row["label"]} for row in rows[120:]]
    run = train(
        hw.Corpus.read(rows[:120], columns, name="train"),
        hw.Classification(max_length=16),
        tmp_path_factory.mktemp("sources") / "run",
        settings(12),
        eval_corpus=hw.Corpus.read(held, name="eval"),
        show=False,
    )
    return run, hw.Index.build(run, show=False)


def dense(run: hw.Run, rows: hw.Corpus) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The gradient of the mean loss of rows, by plain autograd over transformers' own cross entropy."""
    model = load_model(run.checkpoints[-1].path, run.task.auto)
    batch = run.task.collate(run.task.encode(run.tokenizer, list(rows)), run.tokenizer)
    logits = model(**batch).logits.double()
    targets = torch.tensor([run.label2id[str(row.label)] for row in rows])
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return model, list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def test_one_full_step_of_sgd_is_the_inner_product_of_gradients(made: tuple[hw.Run, hw.Index]) -> None:
    run, _ = made
    rate, queries = 1e-4, run.eval_corpus.take(range(20))
    groups = {name: run.corpus.take(rows) for name, rows in sources_of(run.corpus, "source").items()}
    _, theirs = dense(run, queries)
    unlearner = Unlearner(run)
    how = Unlearning("sgd", rate, batch=30, steps=1)
    forth = unlearner.untrac(groups, queries, how, show=False)
    back = unlearner.inverse(groups, queries, Unlearning("sgd", rate, steps=1), show=False)
    for name, rows in groups.items():
        _, mine = dense(run, rows)
        product = rate * sum(float((one * other).sum()) for one, other in zip(mine, theirs, strict=True))
        assert forth[name].influence == pytest.approx(product, rel=0.05, abs=2e-6)
        assert back[name].influence == pytest.approx(product, rel=0.05, abs=2e-6)


def test_weights_are_put_back_to_the_bit_and_answers_repeat(made: tuple[hw.Run, hw.Index]) -> None:
    run, _ = made
    unlearner = Unlearner(run)
    before = [parameter.detach().clone() for parameter in unlearner.model.parameters()]
    groups = {"all": run.corpus.take(range(16))}
    one = unlearner.untrac(groups, run.eval_corpus, Unlearning(learning_rate=1e-3), show=False)
    assert all(torch.equal(a, b) for a, b in zip(before, unlearner.model.parameters(), strict=True))
    assert unlearner.untrac(groups, run.eval_corpus, Unlearning(learning_rate=1e-3), show=False) == one
    assert [step for step, _ in one["all"].trajectory] == [3, 6, 10, 13, 16]


def test_a_broken_model_stops_the_steps(made: tuple[hw.Run, hw.Index]) -> None:
    run, _ = made
    found = Unlearner(run).untrac({"all": run.corpus}, run.eval_corpus, Unlearning(learning_rate=1.0), show=False)
    assert found["all"].stopped and len(found["all"].trajectory) < 5


def test_the_source_of_wrong_labels_hurts_by_every_method_and_in_truth(
    made: tuple[hw.Run, hw.Index], tmp_path: Path
) -> None:
    run, index = made
    worklist = audit_sources(
        run, index, run.eval_corpus, "source", how=Unlearning(learning_rate=1e-3), truth=tmp_path, seeds=2, show=False
    )
    found = {each["source"]: each for each in worklist.figures["sources"]}
    assert tuple(found) == SOURCES
    for method in (SUMS, UNTRAC, INVERSE, TRUTH):
        assert min(found, key=lambda name: found[name][method]) == "wrong", method
        assert found["wrong"][method] < 0 < found["books"][method], method
    assert found["wrong"]["hurts"] and not found["books"]["hurts"]
    assert {suspect.row for suspect in worklist.suspects} == set(range(3, 120, 4))
    assert {suspect.group for suspect in worklist.suspects} == {"source wrong"}
    assert all(each["pearson"] > 0.8 for each in worklist.figures["grades"]) and len(worklist.figures["grades"]) == 3
    plan = worklist.plan(run)
    assert len(plan.repairs) == 30 and plan.repairs[0].status == "suggested"


def test_sums_are_means_of_summed_scores_with_an_interval_around_them() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    for value, low, high in summed(scores, {"a": [0, 3], "b": [1, 2, 11]}).values():
        assert low < value < high
    assert summed(scores, {"a": [0, 3]})["a"][0] == pytest.approx(float(scores[:, [0, 3]].sum(axis=1).mean()), rel=1e-5)
    assert grades([]) == []


@pytest.mark.parametrize(
    ("rows", "column", "error", "said"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], "source", DataError, "has no column 'source'"),
        ([{"text": "a", "s": "one"}, {"text": "b", "s": "one"}], "s", UsageError, "one source alone"),
        ([{"text": "a", "s": "one"}, {"text": "b", "s": None}], "s", DataError, "row 2, column 's': is empty"),
        ([{"text": "a", "s": str(n)} for n in range(60)], "s", UsageError, "more than 50"),
    ],
)
def test_columns_that_name_no_sources_are_refused(
    rows: list[dict[str, str]], column: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        sources_of(hw.Corpus.read(rows, Columns(text="text", label=None), name="rows"), column)


def test_the_command_prints_and_writes_sources(made: tuple[hw.Run, hw.Index], tmp_path: Path) -> None:
    run, _ = made
    asked = ("audit", run.folder, "sources", "--column", "source", "--learning-rate", "1e-3", "--out", tmp_path)
    told = headwater(*asked, "--json")
    assert told.code == 0, told.stderr
    answer = json.loads(told.stdout)
    assert [each["source"] for each in answer["figures"]["sources"]] == list(SOURCES)
    assert (tmp_path / "plan.jsonl").is_file() and "untrac-inv" in (tmp_path / "worklist.html").read_text()
    shown = headwater(*asked, "--methods", "sums")
    assert shown.code == 0 and "wrong" in shown.stdout and "hurt these queries" in shown.stdout
    wrong = headwater(*asked, "--methods", "nobody")
    assert wrong.code == 2 and "'nobody' is not one of sums" in wrong.stderr
