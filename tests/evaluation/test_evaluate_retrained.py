"""Filtering and groups in the table: what retraining by hand gives, and known answers of scores made for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.errors import DataError, UsageError
from headwater.evaluation.bank import RetrainBank
from headwater.evaluation.candidates import Candidate, candidates_of
from headwater.evaluation.columns import get_metric
from headwater.evaluation.costs import Clock
from headwater.evaluation.filtered import filter_columns
from headwater.evaluation.late import scored_within, with_late
from headwater.evaluation.metrics.label_noise import win_rate
from headwater.evaluation.removals import Seen
from headwater.evaluation.scoring import Asked, Cost, Scored
from headwater.evaluation.settings import EvaluateSettings
from headwater.evaluation.unretrained import hubness_column
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, predict, retrain, train

ROWS, HELD = 48, 30
TRAINED = TrainSettings(
    model="textcnn", epochs=6, batch_size=8, max_length=16, learning_rate=1e-2, checkpoints=1, device="cpu"
)
SETTINGS = {"draws": 2, "baselines": False, "processes": 1}
WRONG = np.arange(ROWS) % 10 < 3  # 15 rows; 30% of 48 are 14


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Wrong labels are on purpose in rows that one score names and its negative keeps."""
    rows = [row | {"source": f"s{number % 4}"} for number, row in enumerate(builders.rows(ROWS))]
    for row, wrong in zip(rows, WRONG, strict=True):
        if wrong:
            row["label"] = "bad" if row["label"] == "good" else "good"
    held = Corpus.read(builders.rows(ROWS + HELD)[ROWS:], name="held out")
    folder = tmp_path_factory.mktemp("noisy") / "r"
    return train(Corpus.read(rows), Classification(), folder, TRAINED, eval_corpus=held)


@pytest.fixture(scope="module")
def queries(run: Run) -> Corpus:
    assert run.eval_corpus is not None
    return run.eval_corpus.take([0, 1, 2])


def key_scores() -> np.ndarray:
    """Low where the label is wrong; no two rows alike, so that every method removes rows of its own."""
    return np.tile(np.where(WRONG, -1.0, 1.0) + 0.001 * np.arange(ROWS), (3, 1))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filtered") / "out"


@pytest.fixture(scope="module")
def filtered(run: Run, queries: Corpus, out: Path) -> hw.Evaluation:
    scores = {"key": key_scores(), "negative": -key_scores()}
    settings = SETTINGS | {"baselines": True}
    return hw.evaluate(run, ["bm25"], ["filtering"], queries, out=out, scores=scores, **settings)


def test_the_answer_key_filters_better_than_chance_and_its_negative_worse(filtered: hw.Evaluation) -> None:
    accuracy = {method: filtered.cell("accuracy", method) for method in filtered.methods}
    assert accuracy["key"].value > accuracy["random"].value > accuracy["negative"].value
    assert accuracy["key"].low <= accuracy["key"].value <= accuracy["key"].high
    assert filtered.cell("accuracy vs random", "key").low > 0
    assert filtered.cell("win rate", "key").value == 1.0
    assert filtered.cell("win rate", "negative").value < 0.5
    assert filtered.best("accuracy")[0] == "key"


def test_filtering_is_what_retraining_by_hand_gives_on_rows_nobody_asked_about(
    filtered: hw.Evaluation, run: Run, queries: Corpus, out: Path
) -> None:
    tests = RetrainBank.open(out / "bank" / "filter").queries
    held = run.eval_corpus
    assert held is not None
    assert len(tests) == HELD - 3
    assert {row.text for row in tests} | {row.text for row in queries} == {row.text for row in held}
    assert not {row.text for row in tests} & {row.text for row in queries}
    kept = np.sort(np.argsort(key_scores()[0], kind="stable")[14:]).tolist()
    by_hand = {
        seed: predict(retrain(run, rows=kept, seed=seed), run.tokenizer, run.task, tests).accuracy for seed in (0, 1)
    }
    assert filtered.cell("accuracy", "key").value == pytest.approx(np.mean(list(by_hand.values())))
    whole = [predict(retrain(run, seed=seed), run.tokenizer, run.task, tests).accuracy for seed in (0, 1)]
    assert f"all rows: {np.mean(whole):.4f}" in filtered.column("accuracy").protocol


def test_wins_are_counted_seed_by_seed(filtered: hw.Evaluation, out: Path) -> None:
    found = RetrainBank.open(out / "bank" / "filter").results(seeds=(0, 1))
    order = np.argsort(key_scores()[0], kind="stable")
    at = [found.removals.index(tuple(sorted(rows.tolist()))) for rows in (order[:14], order[::-1][:14])]
    accuracies = found.correct.mean(axis=2)
    assert set(filtered.methods) == {"bm25", "key", "negative", "bm25-label", "tfidf-label", "random"}
    seeds = win_rate(accuracies[at])
    assert seeds.tolist() == [1.0, 0.0]
    assert "a trial of the win rate is a seed" in filtered.column("win rate").protocol
    assert found.removals[0] == () and len(found.removals) <= 1 + 2 + 5


def test_filtering_wants_all_methods_and_tells_which_were_not_finished(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    scores = {"key": key_scores(), "negative": -key_scores()}
    given = {"queries": queries, "out": tmp_path, "scores": scores, "test": 5, "seeds": 1, **SETTINGS}
    with pytest.raises(UsageError, match="retrains 4: the least is 5"):  # all rows, two draws and two methods
        hw.evaluate(run, [], ["filtering"], retrains=4, **given)
    made = hw.evaluate(run, [], ["filtering"], retrains=5, **given)
    assert made.retrains == 5 and made.used[0].used == 2
    found = RetrainBank.open(tmp_path / "bank" / "filter").results()
    settings = EvaluateSettings(draws=2, seeds=1)
    both = [
        Scored(Candidate(name, None, {}, each), each, Cost(name, None, None, None)) for name, each in scores.items()
    ]
    first, *_ = filter_columns(both, Seen(found, "remove", found.removals), 1, settings)
    key, negative = first.results
    assert key.value == made.cell("accuracy", "key").value and key.queries == 5
    assert np.isnan(negative.value) and "in the time there was" in negative.notes[0]


@pytest.fixture(scope="module")
def grouped(run: Run, queries: Corpus, tmp_path_factory: pytest.TempPathFactory) -> hw.Evaluation:
    """Scores that are the effects themselves, found by a first evaluation, and their negative."""
    out = tmp_path_factory.mktemp("grouped")
    hw.evaluate(run, [], ["groups"], queries, out=out, scores={"x": key_scores()}, group_column="source", **SETTINGS)
    found = RetrainBank.open(out / "bank" / "remove").results()
    losses = found.losses.mean(axis=1, dtype=np.float64)
    plain = losses[found.removals.index(())]
    scores = np.zeros((3, ROWS))
    for group in range(4):
        rows = tuple(range(group, ROWS, 4))
        scores[:, rows[0]] = losses[found.removals.index(rows)] - plain  # the sum over the group is the effect
    oracle = {"oracle": scores, "negative": -scores}
    return hw.evaluate(run, [], ["groups"], queries, out=out, scores=oracle, group_column="source", **SETTINGS)


def test_scores_that_are_the_measured_effects_of_groups_correlate_perfectly(grouped: hw.Evaluation) -> None:
    assert grouped.cell("groups", "oracle").value == pytest.approx(1.0, abs=1e-4)
    assert grouped.cell("groups", "negative").value == pytest.approx(-1.0, abs=1e-4)
    assert grouped.retrains == 10 and grouped.used[0].used == 4
    assert "4 groups of column 'source'" in grouped.column("groups").protocol


def test_row_sets_that_two_metrics_share_are_counted_once(run: Run, queries: Corpus, tmp_path: Path) -> None:
    """qld removes one row of each query: three of the rows that leave-one-out leaves out."""
    left_out = np.random.default_rng([0, 1]).permutation(ROWS)[:5]
    scores = np.zeros((3, ROWS))
    scores[range(3), left_out[:3]] = 1.0
    settings = SETTINGS | {"share": 0.02, "seeds": 1, "rows_out": 5, "retrains": 8, "scores": {"x": scores}}
    made = hw.evaluate(run, [], ["qld", "leave-one-out"], queries, out=tmp_path, **settings)
    assert [used.used for used in made.used] == [3, 5]
    assert [used.retrains for used in made.used] == [6, 6]
    assert made.retrains == 8 == len(list((tmp_path / "bank" / "remove" / "retrains").iterdir()))


@pytest.mark.parametrize(
    ("metrics", "changes", "message"),
    [
        (["filtering"], {"filter_share": 0.001}, "filter_share 0.001 of 48 rows is 0"),
        (["filtering"], {"filter_share": 1.5}, "filter_share is a part of the rows"),
        (["filtering"], {"test": 28}, "28 test rows asked for, but 27 of its 30 rows are no queries"),
        (["filtering"], {"test": 0}, "test must be at least 1 row"),
        (["groups"], {}, "name the column of the corpus that makes the groups"),
        (["groups"], {"group_column": "label"}, "makes 2 groups; groups needs 3"),
        (["facts"], {}, "facts: name the column of corpus and queries"),
    ],
)
def test_what_a_metric_lacks_is_found_before_any_work(
    run: Run, queries: Corpus, tmp_path: Path, metrics: list[str], changes: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        hw.evaluate(run, ["bm25"], metrics, queries, out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_columns_that_are_not_there_are_named(run: Run, queries: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'origin'.*It has: .*source"):
        hw.evaluate(run, ["bm25"], ["groups"], queries, out=tmp_path, group_column="origin")
    with pytest.raises(UsageError, match="0 of its 3 rows are no queries"):
        hw.evaluate(run, ["bm25"], ["filtering"], queries, out=tmp_path, test=queries)


def test_methods_that_come_after_the_end_of_the_time_have_an_empty_row(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:

    candidates = candidates_of(run, ["tracin-we", "tracin/layers=last"], {}, baselines=True, queries=3)
    asked = Asked(run, queries, queries.table.column("label").to_pylist(), tmp_path)
    over = Clock(0.0, 0.001, [get_metric("hubness")])
    scored, late = scored_within(asked, candidates, over, False)
    assert [one.candidate.label for one in scored] == ["bm25-label", "tfidf-label", "random"]
    assert [one.label for one in late] == ["tracin-we", "tracin/layers=last"]
    column = with_late(hubness_column(scored, EvaluateSettings()), late, candidates)
    assert [cell.method for cell in column.results] == [one.label for one in candidates]
    assert np.isnan(column.results[0].value) and "budget was over" in column.results[0].notes[0]
    assert np.isfinite(column.results[2].value)
