"""`headwater estimate` of an index, a batch of queries and an evaluation; --json says all of it."""

from dataclasses import fields
from pathlib import Path

from cli.conftest import headwater
from headwater.attribution.estimate import Estimate
from headwater.attribution.estimate_queries import QueryEstimate
from headwater.evaluation.estimate import EvaluationEstimate


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_a_finished_index_costs_nothing(made: Path) -> None:
    told = headwater("estimate", made / "run", "--json").json
    assert told["of"] == "index" and _names(Estimate) < set(told)
    assert told["seconds"] == 0 and told["disk_bytes"] == 0 and told["built_bytes"] > 0 and told["fits"]


def test_a_batch_of_queries(made: Path) -> None:
    told = headwater("estimate", made / "run", "--queries", 200, "--json").json
    assert told["of"] == "queries" and _names(QueryEstimate) < set(told)
    assert told["queries"] == 200 and told["blocks"] == 2
    shown = headwater("estimate", made / "run", "--queries", 200).stdout
    assert "200 queries by tracin-we" in shown and "memory" in shown


def test_an_evaluation(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = ("--data", made / "train.jsonl", "--eval", made / "test.jsonl", "--model", "textcnn", "--epochs", 1)
    called = headwater("train", *data, "--max-length", 16, "--vocabulary", 300, "--out", run)
    assert called.code == 0, called.stderr
    told = headwater("estimate", run, "--evaluate", "--queries", 3, "--metrics", "lds", "--subsets", 3, "--json").json
    assert told["of"] == "evaluation" and _names(EvaluationEstimate) < set(told)
    shown = headwater("estimate", run, "--evaluate", "--queries", 3, "--metrics", "hubness").stdout
    assert "indexing and scoring" in shown and "grading" in shown


def test_options_of_an_evaluation_alone_are_refused(made: Path) -> None:
    assert "--metrics goes with --evaluate" in headwater("estimate", made / "run", "--metrics", "lds").error
    assert "--subsets goes with --evaluate" in headwater("estimate", made / "run", "--subsets", 5).error
