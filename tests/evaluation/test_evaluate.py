"""One call grades methods: numbers that hand-made retrainings confirm, kept over kills, within what was allowed."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import builders
import headwater as hw
from headwater.errors import DataError, UsageError
from headwater.evaluation.bank import RetrainBank
from headwater.evaluation.report import render_page
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train

METHODS = ["tracin-we", "tracin/layers=last"]
METRICS = ["lds", "deletion", "qld", "leave-one-out", "ndr", "auc-ndr", "mislabel", "tail-patch", "hubness"]
KILLED = ["lds", "qld"]
SETTINGS = {"subsets": 5, "grid": (2, 4), "rows_out": 4, "draws": 1, "noise_column": "wrong", "processes": 1}

TRAINED = TrainSettings(
    model="textcnn", epochs=2, batch_size=8, max_length=16, learning_rate=1e-2, checkpoints=2, device="cpu"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rows = [row | {"wrong": number % 4 == 0} for number, row in enumerate(builders.rows(32))]
    for row in rows:
        if row["wrong"]:
            row["label"] = "bad" if row["label"] == "good" else "good"
    folder = tmp_path_factory.mktemp("run") / "r"
    asked = Corpus.read(builders.rows(12, seed=7), name="held out")
    return train(Corpus.read(rows), Classification(), folder, TRAINED, eval_corpus=asked)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    return Corpus.read(builders.rows(3, seed=5), name="asked")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graded") / "out"


@pytest.fixture(scope="module")
def graded(run: Run, queries: Corpus, out: Path) -> hw.Evaluation:
    """Everything at once; tests only read it."""
    return hw.evaluate(run, METHODS, METRICS, queries, out=out, **SETTINGS)


def own_scores(out: Path, name: str) -> np.ndarray:
    return np.load(out / "scores" / f"{name}.npy")


def values(evaluation: hw.Evaluation) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    return {(each.metric, each.method): (each.value, each.low, each.high, each.queries) for each in evaluation.results}


def same(one: hw.Evaluation, other: hw.Evaluation) -> bool:
    mine, theirs = values(one), values(other)
    return mine.keys() == theirs.keys() and all(
        np.array_equal(mine[cell], theirs[cell], equal_nan=True) for cell in mine
    )


def done(folder: Path) -> dict[str, int]:
    files = folder.glob("bank/*/retrains/*.safetensors")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_every_method_has_every_number_and_its_cost(graded: hw.Evaluation) -> None:
    assert graded.methods == [*METHODS, "bm25-label", "tfidf-label", "random"]
    for column in ("lds", "lds corrected", "del+ probability", "del+ margin", "del- probability", "del- margin", "qld",
                   "leave-one-out", "ndr@30", "auc-ndr", "mislabel", "tail-patch", "distinct rows"):  # fmt: skip
        for method in graded.methods:
            cell = graded.cell(column, method)
            assert np.isfinite(cell.value) and cell.queries == 3 and cell.protocol
            assert column == "distinct rows" or cell.low <= cell.value <= cell.high
    for cost in graded.costs:
        assert cost.index_seconds is not None and cost.score_seconds is not None and cost.score_seconds > 0
        assert (cost.bytes > 0) == (cost.method in METHODS)
    assert "half" in graded.column("lds").protocol and "5 subsets, 2 seeds each" in graded.column("lds").protocol
    assert "without 2, 4 rows" in graded.column("del+ margin").protocol


def test_the_lds_is_what_scipy_makes_of_the_bank_and_the_ceiling_stands_beside_it(
    graded: hw.Evaluation, out: Path
) -> None:
    bank = RetrainBank.open(out / "bank" / "half-0")
    scores = own_scores(out, "tracin-we").astype(np.float64)
    foretold = bank.masks @ scores.T
    actual = -bank.losses.astype(np.float64).mean(axis=1)
    expected = [spearmanr(foretold[:, query], actual[:, query]).statistic for query in range(3)]
    assert graded.cell("lds", "tracin-we").value == pytest.approx(np.mean(expected))
    highest = graded.column("lds").ceiling["highest"]
    if highest > 0:
        corrected = graded.cell("lds corrected", "tracin-we").value
        assert corrected == pytest.approx(np.mean(expected) / highest)


def test_a_deletion_is_what_retraining_by_hand_gives(
    graded: hw.Evaluation, run: Run, queries: Corpus, out: Path
) -> None:
    scores = own_scores(out, "tracin-we")

    def chances(gone: list[int]) -> np.ndarray:
        kept = sorted(set(range(32)) - set(gone))
        models = [retrain(run, rows=kept, seed=seed) for seed in (0, 1)]
        return np.mean([predict(m, run.tokenizer, run.task, queries).true_probabilities for m in models], axis=0)

    everything = chances([])
    fallen = []
    for query in range(3):
        top = np.argsort(-scores[query], kind="stable")
        fallen.append(np.mean([chances(top[:k].tolist())[query] - everything[query] for k in (2, 4)]))
    assert graded.cell("del+ probability", "tracin-we").value == pytest.approx(np.mean(fallen), abs=1e-6)


def test_wrong_labels_are_found_by_the_lowest_mean_scores(graded: hw.Evaluation, out: Path) -> None:
    mean = own_scores(out, "tracin-we").astype(np.float64).mean(axis=0)
    wrong = np.arange(32) % 4 == 0
    pairs = [(mean[bad] < mean[good]) + 0.5 * (mean[bad] == mean[good]) for bad in np.flatnonzero(wrong)
             for good in np.flatnonzero(~wrong)]  # fmt: skip
    assert graded.cell("mislabel", "tracin-we").value == pytest.approx(np.mean(pairs))


def test_scores_of_another_tool_get_the_numbers_of_the_method_that_made_them(
    graded: hw.Evaluation, run: Run, queries: Corpus, out: Path, tmp_path: Path
) -> None:
    mine = own_scores(out, "tracin-we")
    np.save(tmp_path / "theirs.npy", mine.astype(np.float64))
    before = done(out)
    again = hw.evaluate(run, METHODS, METRICS, queries, out=out, scores={"theirs": tmp_path / "theirs.npy"}, **SETTINGS)
    for column in graded.columns:
        name = column.column.name
        if np.isfinite(graded.cell(name, "tracin-we").value):
            assert again.cell(name, "theirs").value == graded.cell(name, "tracin-we").value, name
    assert again.cost("theirs").index_seconds is None
    assert done(out) == before  # the same rows are removed: nothing new to retrain
    flipped = hw.evaluate(run, ["tracin-we"], ["lds"], queries, out=out, scores={"flipped": -mine}, **SETTINGS)
    assert flipped.cell("lds", "flipped").value == pytest.approx(-graded.cell("lds", "tracin-we").value)


def test_files_hold_the_same_numbers(run: Run, queries: Corpus, graded: hw.Evaluation, out: Path) -> None:
    hw.evaluate(run, METHODS, METRICS, queries, out=out, **SETTINGS)
    told = json.loads((out / "evaluation.json").read_text())
    lines = list(csv.DictReader(io.StringIO((out / "evaluation.csv").read_text())))
    page = (out / "evaluation.html").read_text()
    on_page = set(re.findall(r'<data value="([^"]*)"', page))
    assert len(lines) == len(told["results"]) == len(graded.results)
    for cell, line, result in zip(told["results"], lines, graded.results, strict=True):
        assert (cell["metric"], cell["method"]) == (line["metric"], line["method"]) == (result.metric, result.method)
        for name in ("value", "low", "high"):
            expected = getattr(result, name)
            if np.isnan(expected):
                assert cell[name] is None and line[name] == ""
            else:
                assert cell[name] == expected and float(line[name]) == expected
                assert repr(float(expected)) in on_page, (result.metric, result.method, name)


def test_the_page_is_alone_escaped_and_the_same_twice(
    run: Run, queries: Corpus, graded: hw.Evaluation, out: Path
) -> None:
    nasty = "<img src=x onerror=alert(1)>$x$"
    made = hw.evaluate(
        run, [], ["hubness"], queries, out=out / "nasty", scores={nasty: np.zeros((3, 32))}, baselines=False
    )
    page = (out / "nasty" / "evaluation.html").read_text()
    assert "<img" not in page and "&lt;img src=x" in page
    assert "<script" not in page
    assert render_page(made) == render_page(made)
    whole = render_page(graded, command="headwater evaluate <run>")
    assert whole == render_page(graded, command="headwater evaluate <run>")
    assert "headwater evaluate &lt;run&gt;" in whole
    assert whole.count("<svg") > 5
    fetched = re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', whole)
    assert not fetched
    ids = re.findall(r'\bid="([^"]*)"', whole)
    assert len(ids) == len(set(ids))


def test_a_kill_loses_nothing_that_was_finished(
    graded: hw.Evaluation, run: Run, queries: Corpus, tmp_path: Path
) -> None:
    queries.save(tmp_path / "q.parquet")
    program = (
        "import sys, headwater as hw; from headwater.runs import Corpus, Run\n"
        "run, asked, out = Run.open(sys.argv[1]), Corpus.read(sys.argv[2], name='asked'), sys.argv[3]\n"
        f"hw.evaluate(run, {METHODS!r}, {KILLED!r}, asked, out=out, **{SETTINGS!r})\n"
    )
    arguments = [str(run.folder), str(tmp_path / "q.parquet"), str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
    while process.poll() is None and len(done(tmp_path / "out")) < 6:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    before = done(tmp_path / "out")
    assert len(before) >= 6, said.decode()
    again = hw.evaluate(run, METHODS, KILLED, queries, out=tmp_path / "out", **SETTINGS)
    after = done(tmp_path / "out")
    assert len(before) < len(after) and before.items() <= after.items()
    wanted = values(graded)
    for cell, found in values(again).items():
        assert np.array_equal(found, wanted[cell], equal_nan=True), cell


@pytest.mark.parametrize("allowed", [28, 41])
def test_never_more_retrainings_than_allowed(run: Run, queries: Corpus, tmp_path: Path, allowed: int) -> None:
    """The least is 28: two seeds of 3 subsets, of the control's 2 row sets, the baseline, and one query's 8."""
    made = hw.evaluate(
        run, METHODS, ["lds", "deletion"], queries, out=tmp_path, retrains=allowed, baselines=False, **SETTINGS
    )
    assert made.retrains <= allowed and len(done(tmp_path)) <= allowed
    subsets, asked = made.used
    assert 3 <= subsets.used <= 5 and subsets.wished == 5 and 1 <= asked.used <= 3
    assert f"{subsets.used} subsets" in made.column("lds").protocol
    assert f"{asked.used} quer" in made.column("del+ margin").protocol
    assert made.cell("del+ margin", "tracin-we").queries == asked.used


def test_too_little_is_refused_with_the_least(run: Run, queries: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"retrains 27: the least is 28 \(lds 6, deletion 22\)"):
        hw.evaluate(run, METHODS, ["lds", "deletion"], queries, out=tmp_path, retrains=27, baselines=False, **SETTINGS)
    assert not done(tmp_path)
    with pytest.raises(UsageError, match=r"budget of 0 s is too small: the least .* is about \d+ s .*6 retrainings"):
        hw.evaluate(run, METHODS, ["lds"], queries, out=tmp_path, budget=0, **SETTINGS)


def test_a_budget_is_kept_with_fewer_subsets(run: Run, queries: Corpus, tmp_path: Path) -> None:
    made = hw.evaluate(
        run, ["tracin-we"], ["lds"], queries, out=tmp_path, budget="6s", **(SETTINGS | {"subsets": 5000})
    )
    assert 3 <= made.used[0].used < 5000
    assert made.retrains == 2 * made.used[0].used
    assert "Budget 6 s" in made.forecast


def test_stability_compares_runs_of_other_seeds(run: Run, queries: Corpus, tmp_path: Path) -> None:
    twin = train(run.corpus, Classification(), tmp_path / "twin", replace(TRAINED, seed=1))
    made = hw.evaluate(run, ["tracin-we"], ["stability"], queries, out=tmp_path / "out", others=[twin], **SETTINGS)
    mine = own_scores(tmp_path / "out", "tracin-we")
    theirs = hw.Index.build(twin).scores(queries, [row.label for row in queries])
    expected = np.mean([spearmanr(one, other).statistic for one, other in zip(mine, theirs, strict=True)])
    assert made.cell("stability", "tracin-we").value == pytest.approx(expected)
    assert made.cell("stability", "bm25-label").value == pytest.approx(1.0)


def test_a_number_draws_queries_of_the_evaluation_rows(run: Run, tmp_path: Path) -> None:
    made = hw.evaluate(run, ["tracin-we"], ["hubness"], 5, out=tmp_path, **SETTINGS)
    assert made.queries == 5 and made.retrains == 0
    again = hw.evaluate(run, ["tracin-we"], ["hubness"], 5, out=tmp_path / "again", **SETTINGS)
    assert same(made, again)
    with pytest.raises(UsageError, match="evaluation rows are 12"):
        hw.evaluate(run, ["tracin-we"], ["hubness"], 13, out=tmp_path, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["tracin-wi"]}, "Did you mean 'tracin-we'"),
        ({"methods": ["logra/dumping=1"]}, "logra has no option 'dumping'"),
        ({"methods": ["logra/damping=low"]}, "logra/damping: 'low' is no number"),
        ({"methods": ["tracin-we", "tracin-we"]}, "stands twice"),
        ({"metrics": ["deletions"]}, "Did you mean 'deletion'"),
        ({"metrics": ["stability"]}, "give other runs"),
        ({"scores": {"x": np.zeros((32, 3))}}, r"has shape \[32, 3\], but must be \[3 queries, 32 training rows\]"),
        ({"scores": {"x": np.full((3, 32), np.nan)}}, "query 0, row 0 .* is nan"),
        ({"scores": {"x": np.full((3, 32), 1e300)}}, "finite float32"),
        ({"scores": {"x": np.zeros((3, 32), dtype=complex)}}, "not numbers"),
        ({"scores": {"x": "none.npy"}}, "none.npy: no such file"),
        ({"scores": {"random": np.zeros((3, 32))}, "baselines": False}, "the control"),
        ({"subset": 5}, "no setting 'subset'"),
        ({"budget": "soon"}, "not a time"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"metrics": ["deletion"], "grid": (40,)}, "grid must ascend"),
    ],
)
def test_mistakes_are_found_before_any_work(
    run: Run, queries: Corpus, tmp_path: Path, changes: dict, message: str
) -> None:
    given = {"methods": ["tracin-we"], "metrics": ["hubness"]} | changes
    with pytest.raises(UsageError, match=message):
        hw.evaluate(run, queries=queries, out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_noise_column_that_is_none_is_named(run: Run, queries: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'flipped'"):
        hw.evaluate(run, ["tracin-we"], queries=queries, out=tmp_path, noise_column="flipped")
    with pytest.raises(DataError, match=r"row 1, column 'label': .* is neither true nor false"):
        hw.evaluate(run, ["tracin-we"], queries=queries, out=tmp_path, noise_column="label")


def test_one_seed_has_no_ceiling(run: Run, queries: Corpus, tmp_path: Path) -> None:
    made = hw.evaluate(run, ["tracin-we"], ["lds"], queries, out=tmp_path, subsets=3, seeds=1, processes=1)
    assert made.column("lds").ceiling is None
    assert [one.column.name for one in made.columns] == ["lds"]
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["half-0"]
