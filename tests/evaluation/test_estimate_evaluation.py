"""What an evaluation will cost: the parts add up, and what is finished costs nothing."""

from pathlib import Path

import pytest

import builders
import headwater as hw
from cli.conftest import everything_in
from headwater.errors import UsageError
from headwater.evaluation.estimate import EvaluationEstimate, estimate_evaluation
from headwater.training import TrainSettings, train

ASKED = {"subsets": 4, "seeds": 2, "processes": 1}
TRAINED = TrainSettings(model="textcnn", epochs=1, max_length=16, checkpoints=2, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    return train(
        hw.Corpus.read(builders.rows(60)), hw.Classification(max_length=16), tmp_path_factory.mktemp("run"), TRAINED
    )


@pytest.fixture
def queries() -> hw.Corpus:
    return hw.Corpus.read(builders.rows(64)[60:])


def _adds_up(found: EvaluationEstimate) -> bool:
    assert found.scoring_seconds == pytest.approx(sum(found.by_method.values()))
    return found.seconds == pytest.approx(found.scoring_seconds + found.retraining_seconds + found.grading_seconds)


def test_the_parts_add_up_and_what_is_finished_costs_nothing(run: hw.Run, queries: hw.Corpus, tmp_path: Path) -> None:
    out = tmp_path / "graded"
    before = everything_in(run.folder)
    asked = (run, ["tracin-we", "tracin-last"], ["lds", "hubness"], queries)
    found = estimate_evaluation(*asked, out=out, **ASKED)
    assert _adds_up(found) and everything_in(run.folder) == before
    assert set(found.by_method) == {"tracin-we", "tracin-last", "bm25-label", "tfidf-label", "random"}
    assert 4 <= found.retrains <= 8 and found.processes == 1 and found.a_retrain_seconds > 0
    assert found.retraining_seconds == pytest.approx(found.retrains * found.a_retrain_seconds / 2, rel=0.1)  # halves
    hw.evaluate(*asked, out=out, show=False, **ASKED)
    finished = estimate_evaluation(*asked, out=out, **ASKED)
    assert _adds_up(finished) and finished.scoring_seconds == 0
    assert finished.retrains == 0 and finished.retraining_seconds == 0


def test_metrics_without_retraining_retrain_nothing_and_leave_nothing(run: hw.Run, queries: hw.Corpus) -> None:
    before = everything_in(run.folder)
    found = estimate_evaluation(run, ["tracin-we"], ["hubness"], queries)
    assert _adds_up(found) and found.retrains == 0 and found.a_retrain_seconds == 0
    assert everything_in(run.folder) == before


def test_more_seeds_and_a_cap_are_counted(run: hw.Run, queries: hw.Corpus, tmp_path: Path) -> None:
    asked = (run, ["tracin-we"], ["lds"], queries)
    many = estimate_evaluation(*asked, out=tmp_path, **{**ASKED, "subsets": 40})
    capped = estimate_evaluation(*asked, out=tmp_path, retrains=20, **{**ASKED, "subsets": 40})
    assert 70 <= many.retrains <= 80 and 10 <= capped.retrains <= 20


def test_what_evaluate_would_refuse_is_refused(run: hw.Run, queries: hw.Corpus) -> None:
    with pytest.raises(UsageError, match="noise_column"):
        estimate_evaluation(run, ["tracin-we"], ["ndr"], queries)
