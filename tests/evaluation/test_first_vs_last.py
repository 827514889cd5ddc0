"""The comparison of layers: trainings, flips, layer groups and numbers that hand-made retrainings confirm."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import builders
import headwater as hw
from headwater.cli.app import app
from headwater.errors import DataError, UsageError
from headwater.evaluation.candidates import Candidate
from headwater.evaluation.first_vs_last import Study, first_vs_last
from headwater.evaluation.first_vs_last.layers import at_layers, layer_groups, pairs_of
from headwater.evaluation.first_vs_last.measured import Measured
from headwater.evaluation.first_vs_last.noise import Noisy, grade_noise, score_noisy
from headwater.evaluation.first_vs_last.settings import StudySettings
from headwater.evaluation.first_vs_last.variants import FLIPPED, Variant, flip_labels, moves_embeddings
from headwater.evaluation.metrics.bootstrap import Interval
from headwater.evaluation.metrics.filtering import kept_rows
from headwater.evaluation.queries import asked_queries
from headwater.models.load import load_model
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train

SETTINGS = {
    "subsets": 3, "methods": ("tracin",), "deletion_queries": 2, "grid": (3,), "draws": 1,
    "filter_seeds": 1, "dim": 4, "processes": 1,
}  # fmt: skip
TRAINED = TrainSettings(
    model="textcnn", epochs=1, batch_size=8, max_length=16, learning_rate=1e-2, checkpoints=2, device="cpu"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    asked = Corpus.read(builders.rows(16, seed=7), name="held out")
    folder = tmp_path_factory.mktemp("run") / "r"
    return train(Corpus.read(builders.rows(40)), Classification(), folder, TRAINED, eval_corpus=asked)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture(scope="module")
def study(run: Run, out: Path) -> Study:
    """Everything at once; tests only read it."""
    return first_vs_last(run, 6, out=out, **SETTINGS)


def embeddings(path: Path, run: Run) -> torch.Tensor:
    return load_model(path, run.task.auto).get_input_embeddings().weight


def test_a_fifth_of_the_labels_is_flipped_and_the_column_says_which() -> None:
    corpus = Corpus.read(builders.rows(40))
    made = flip_labels(corpus, 0.2, seed=3)
    before, after = (each.table.column("label").to_pylist() for each in (corpus, made))
    marked = made.table.column(FLIPPED).to_pylist()
    assert sum(marked) == 8
    assert [one != other for one, other in zip(before, after, strict=True)] == marked
    assert flip_labels(corpus, 0.2, seed=3).fingerprint == made.fingerprint
    assert flip_labels(corpus, 0.2, seed=4).fingerprint != made.fingerprint


def test_frozen_embeddings_never_move_and_all_else_does(run: Run, study: Study, out: Path) -> None:
    first = embeddings(run.need_recipe().initial, run)
    assert moves_embeddings(run) and not torch.equal(first, embeddings(run.checkpoints[-1].path, run))
    for name in ("frozen", "frozen-noisy"):
        still = Run.open(out / "runs" / name)
        assert not moves_embeddings(still)
        for checkpoint in still.checkpoints:
            assert torch.equal(first, embeddings(checkpoint.path, run))
        heads = [load_model(path, run.task.auto).classifier.weight
                 for path in (run.need_recipe().initial, still.checkpoints[-1].path)]  # fmt: skip
        assert not torch.equal(*heads)
    assert [each.embeddings for each in study.trainings] == ["trained", "frozen"]


def test_a_run_whose_embeddings_stand_still_is_studied_as_frozen_alone(run: Run, study: Study, out: Path) -> None:
    frozen = Run.open(out / "runs" / "frozen")
    made = first_vs_last(frozen, 6, out=out.parent / "still", protocols=("noise",), methods=("tracin",), dim=4)
    assert [each.embeddings for each in made.trainings] == ["frozen"]
    with pytest.raises(UsageError, match="leaves the word embeddings alone"):
        first_vs_last(frozen, 6, out=out.parent / "none", embeddings="trained")


def test_without_projection_all_layers_are_the_sum_of_the_groups(run: Run, tmp_path: Path) -> None:
    groups = layer_groups(run)
    assert list(groups) == ["word-embeddings", "between", "last", "all"]
    asked = run.eval_corpus
    assert asked is not None
    exact = hw.Projector(exact_below=1 << 22)
    hw.Index.build(run, tmp_path / "i", method="tracin", layers="all", projector=exact, dtype="float32")
    index = hw.Index.build(run, tmp_path / "i", dtype="float32")
    found = {
        one.label.split(" ")[1]: index.scores(asked, asked.table["label"].to_pylist(), method=one.method, **one.options)
        for one in at_layers(["tracin"], groups, dim=4)
    }
    whole = found.pop("all")
    np.testing.assert_allclose(sum(found.values()), whole, rtol=2e-4, atol=1e-6 * np.abs(whole).max())


def test_a_group_of_the_shared_set_scores_as_a_set_of_its_own(
    run: Run, study: Study, out: Path, tmp_path: Path
) -> None:
    asked = asked_queries(run, 6, seed=0)
    labels = asked.table["label"].to_pylist()
    kept = np.load(out / "trained" / "lds" / "scores" / "tracin-last.npy")
    index = hw.Index.build(run, tmp_path / "i", method="tracin", layers="last", projector=hw.Projector(dim=4))
    np.testing.assert_allclose(kept, index.scores(asked, labels, method="tracin", layers="last"), rtol=1e-3, atol=1e-6)


def test_the_answer_key_finds_every_flip_and_its_negative_none() -> None:
    flipped = np.arange(20) % 5 == 0
    key = np.tile(np.where(flipped, -1.0, 1.0), (3, 1))
    by_how = {"mean": {"tracin word-embeddings": key, "tracin last": -key, "random": np.zeros((3, 20))}}
    noisy = Noisy(Variant("trained", None, None, flipped), by_how, np.array([True, False, True]))  # type: ignore[arg-type]
    pair = ("tracin word-embeddings", "tracin last")
    found = {each.metric: each for each in grade_noise(noisy, [pair], StudySettings())}
    assert set(found) == {"ndr@30 mean", "auc-ndr mean", "ndr@30 mean-c", "auc-ndr mean-c"}
    ndr = found["ndr@30 mean"]
    assert [ndr.values[label].value for label in by_how["mean"]] == [1.0, 0.0, pytest.approx(0.3)]
    assert ndr.verdict(pair) == "tracin word-embeddings" and ndr.values[pair[0]].queries == 3
    assert found["auc-ndr mean"].values[pair[0]].value == 1.0
    assert found["ndr@30 mean-c"].values[pair[0]].queries == 2


def test_every_group_is_the_columns_of_each_group_together(run: Run, study: Study, out: Path) -> None:
    noisy_run = Run.open(out / "runs" / "trained-noisy")
    flipped = np.array(noisy_run.corpus.table[FLIPPED].to_pylist())
    variant = Variant("trained", run, noisy_run, flipped)
    candidates = at_layers(["tracin"], layer_groups(run), dim=4)
    asked = asked_queries(run, 6, seed=0)
    noisy = score_noisy(variant, asked, candidates, ["tracin"], out / "trained", show=False)
    for how, found in noisy.by_how.items():
        apart = sum(found[f"tracin {group}"] for group in ("word-embeddings", "between", "last"))
        np.testing.assert_array_equal(found["tracin every group"], apart)
        index = hw.Index.open(out / "trained" / "noise" / "index" / "tokens", run=noisy_run)
        whole = index.aggregate(asked, asked.table["label"].to_pylist(), how=how)
        mine = found["tracin word-embeddings"]
        np.testing.assert_allclose(mine.sum(axis=0) if how == "vote" else mine.mean(axis=0), whole, rtol=1e-6)


def test_accuracy_after_filtering_is_that_of_retraining_by_hand(run: Run, study: Study, out: Path) -> None:
    noisy = Run.open(out / "runs" / "trained-noisy")
    scores = np.load(out / "trained" / "noise" / "scores" / "tracin-word-embeddings.npy")
    asked = asked_queries(run, 6, seed=0)
    texts = {example.text for example in asked}
    test = run.eval_corpus
    assert test is not None
    test = test.take([each.row for each in test if each.text not in texts])
    assert study.tests == len(test)
    kept = kept_rows(scores.mean(axis=0), share=0.3)
    flipped = np.flatnonzero(noisy.corpus.table[FLIPPED].to_pylist())
    for label, rows in (("tracin word-embeddings", kept), ("the flips removed", np.delete(np.arange(40), flipped))):
        by_hand = [
            predict(
                retrain(noisy, rows=rows.tolist(), seed=seed, show=False), noisy.tokenizer, noisy.task, test
            ).accuracy
            for seed in (0,)
        ]
        assert study.one("trained", "accuracy mean").values[label].value == pytest.approx(np.mean(by_hand))


def test_all_that_was_asked_is_measured_with_intervals_and_differences(study: Study) -> None:
    metrics = {each.metric for each in study.measured}
    assert {"lds", "lds corrected", "del+ margin", "del- probability", "ndr@30 vote", "auc-ndr rank", "accuracy mean",
            "win rate"} <= metrics  # fmt: skip
    lds = study.one("frozen", "lds")
    assert set(lds.values) == {
        *(f"{method} {group}" for method in SETTINGS["methods"] for group in study.groups),
        "bm25-label", "tfidf-label", "random",
    }  # fmt: skip
    pairs = pairs_of(("tracin",), study.groups)
    assert ("tracin word-embeddings", "tracin last") in pairs and set(pairs) <= set(lds.differences)
    for pair in pairs:
        gap = lds.values[pair[0]].value - lds.values[pair[1]].value
        assert lds.differences[pair].value == pytest.approx(gap)
    rates = study.one("trained", "win rate").values
    assert np.mean([each.value for each in rates.values()]) == pytest.approx(0.5)


def test_a_difference_whose_interval_holds_zero_is_no_difference() -> None:
    values = {"a": Interval(1, 0, 2, 5), "b": Interval(0, -1, 1, 5)}
    told = []
    for better, found in (("higher", (1, 0.1, 2)), ("lower", (1, 0.1, 2)), ("higher", (1, -0.1, 2)),
                          ("higher", (1, math.nan, math.nan))):  # fmt: skip
        one = Measured("trained", "lds", "lds", better, "", "", values, {("a", "b"): Interval(*found, 5)})  # type: ignore[arg-type]
        told.append(one.verdict(("a", "b")))
    assert told == ["a", "b", "no difference shown", "no difference shown"]


def test_the_same_call_goes_on_and_finds_the_same(run: Run, study: Study, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("**/retrains/*.safetensors")}
    again = first_vs_last(run, 6, out=out, **SETTINGS)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("**/retrains/*.safetensors")}
    assert again.retrains == study.retrains == len(before)
    assert json.dumps([each.to_dict() for each in again.measured]) == json.dumps(
        [each.to_dict() for each in study.measured]
    )


def test_deletion_gives_way_to_the_number_of_retrainings(run: Run, study: Study, out: Path, tmp_path: Path) -> None:
    protocols = ("lds", "deletion")
    some = {**SETTINGS, "protocols": protocols, "embeddings": "trained"}
    made = first_vs_last(run, 6, out=tmp_path, **some, retrains=18)
    assert 8 < made.retrains <= 18
    assert made.one("trained", "del+ margin").values["tracin last"].queries == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_the_command_writes_a_page_that_is_alone(run: Run, study: Study, out: Path) -> None:
    given = ["evaluate", str(run.folder), "--preset", "first-vs-last", "--queries", "6", "--out", str(out)]
    given += ["--subsets", "3", "--methods", "tracin", "--deletion-queries", "2", "--grid", "3"]
    given += ["--draws", "1", "--filter-seeds", "1", "--dim", "4", "--processes", "1"]
    told = CliRunner().invoke(app, [*given, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["retrains"] == study.retrains
    page = (out / "first-vs-last.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) and "<script" not in page
    assert page.count("<svg") == 6
    tables = (out / "first-vs-last.md").read_text()
    assert "| lds | higher | frozen | tracin |" in tables
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0 and "better layer" in shown.stdout


def test_what_does_not_fit_is_refused(run: Run, out: Path) -> None:
    given = ["evaluate", str(run.folder), "--out", str(out)]
    for more, said in (
        (["--preset", "first-vs-last", "--budget", "10m"], "--budget cannot be given"),
        (["--flips", "0.1"], "--flips belongs to --preset"),
        (["--preset", "first-vs-last", "--share", "0.1"], "no setting 'share'"),
        (["--preset", "first-vs-last", "--metrics", "qld"], "no protocol 'qld'"),
        (["--preset", "first-vs-last", "--queries", "16"], "no evaluation rows beside the queries"),
    ):
        told = CliRunner().invoke(app, [*given, *more])
        assert told.exit_code == 2 or told.exit_code == 1, more
        assert said in re.sub(r"\s+", " ", re.sub(r"[│╭╮╰╯─]", "", told.output)), told.output
    with pytest.raises(DataError, match="two or more"):
        flip_labels(Corpus.read([{"text": "a b", "label": "x"}, {"text": "c", "label": "x"}]), 0.2, seed=0)
    with pytest.raises(UsageError):
        at_layers(["bm25"], layer_groups(run), dim=4)
    assert isinstance(at_layers(["trackstar"], layer_groups(run), dim=4)[0], Candidate)
