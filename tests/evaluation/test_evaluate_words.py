"""Word deletion in the table: a bank of edited texts, words that decide and words that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.attribution.words import Word
from headwater.errors import StoreError, UsageError
from headwater.evaluation.bank import RetrainBank, cut_words, remove
from headwater.evaluation.bank.outputs import measure
from headwater.evaluation.metrics.word_deletion import RowWord, edited, words_of
from headwater.runs import Classification, Corpus, Run
from headwater.training import TrainSettings, retrain, train

TRAINED = TrainSettings(
    model="textcnn", epochs=6, batch_size=8, max_length=16, learning_rate=1e-2, checkpoints=1, device="cpu"
)
SETTINGS = {"processes": 1, "seeds": 1, "words": (2, 6), "k": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("words") / "r"
    return train(Corpus.read(builders.rows(24)), Classification(), folder, TRAINED)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    return Corpus.read(builders.rows(2, seed=5), name="asked")


def first_words(rows: list[int], run: Run) -> tuple[RowWord, ...]:
    return tuple(RowWord(row, Word(0, run.corpus[row].text.index(" "), 0)) for row in rows)


def test_a_bank_of_edits_holds_what_retraining_on_the_edited_texts_gives(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    edits = [(), first_words([3, 1], run), first_words([0], run)]
    bank = RetrainBank.create(run, tmp_path / "b", queries, protocol=cut_words(), seeds=2)
    assert bank.add_edits(edits) == [0, 1, 2]
    assert bank.fill(processes=1, most=3) == 3
    again = RetrainBank.open(tmp_path / "b", run)
    assert again.add_edits([edits[2], tuple(reversed(edits[1])), edits[0]]) == [2, 1, 0]
    assert again.fill(processes=2) == 3
    found = again.results()
    for number, edit in enumerate(edits):
        corpus = edited(run.corpus, tuple(sorted(edit)))
        for seed in (0, 1):
            by_hand = measure(retrain(run, corpus=corpus, seed=seed), run, queries)
            np.testing.assert_array_equal(found.losses[number, seed], by_hand.losses)
    assert not np.array_equal(found.losses[0], found.losses[1])


def test_words_and_rows_are_not_mixed_up_and_a_changed_list_is_seen(run: Run, queries: Corpus, tmp_path: Path) -> None:
    bank = RetrainBank.create(run, tmp_path / "b", queries, protocol=cut_words(), seeds=1)
    with pytest.raises(UsageError, match=r"words \(all rows, the named words cut out\)"):
        bank.add([(1,)])
    with pytest.raises(UsageError, match=r"row 24 .* is not among the run's 24 rows"):
        bank.add_edits([(RowWord(24, Word(0, 1, 0)),)])
    rows = RetrainBank.create(run, tmp_path / "r", queries, protocol=remove(), seeds=1)
    with pytest.raises(UsageError, match="remove"):
        rows.add_edits([()])
    bank.add_edits([first_words([1], run)])
    path = tmp_path / "b" / "edits.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(StoreError, match=r"edits\.json: damaged"):
        RetrainBank.open(tmp_path / "b")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "out"


@pytest.fixture(scope="module")
def graded(run: Run, queries: Corpus, out: Path) -> hw.Evaluation:
    return hw.evaluate(run, ["tracin-we"], ["word-deletion"], queries, out=out, **SETTINGS)


def test_a_word_deletion_is_what_cutting_the_words_of_the_answers_by_hand_gives(
    graded: hw.Evaluation, run: Run, queries: Corpus, out: Path
) -> None:
    answers = hw.Index.build(run).query(queries, [row.label for row in queries], k=4)
    edits = RetrainBank.open(out / "bank" / "words").manifest.edits
    plain = measure(retrain(run, seed=0), run, queries).probabilities
    fallen = []
    for query, answer in enumerate(answers):
        scores = words_of(answer)
        highest = sorted(scores.values(), reverse=True)
        for count, edit in zip((2, 6), edits[1 + 4 * query :], strict=False):
            assert sorted((scores[item] for item in edit), reverse=True) == pytest.approx(highest[:count])
            model = retrain(run, corpus=edited(run.corpus, edit), seed=0)
            fallen.append(float(measure(model, run, queries).probabilities[query]) - float(plain[query]))
    assert graded.cell("word-del probability", "tracin-we").value == pytest.approx(np.mean(fallen), abs=1e-6)


def test_the_control_cuts_as_many_words_out_of_the_same_rows(graded: hw.Evaluation, run: Run, out: Path) -> None:
    edits = RetrainBank.open(out / "bank" / "words").manifest.edits
    assert edits[0] == () and len(edits) == 1 + 2 * 2 * 2
    for query in range(2):
        of_query = edits[1 + 4 * query : 5 + 4 * query]
        assert [len(edit) for edit in of_query] == [2, 6, 2, 6]
        assert {item.row for item in of_query[3]} <= {item.row for item in of_query[1]}
        assert set(of_query[2]) < set(of_query[3])
    plain = graded.cell("word-del margin", "tracin-we").value - graded.cell("word-del margin", "random").value
    assert graded.cell("word-del margin vs random", "tracin-we").value == pytest.approx(plain)


def test_methods_without_words_have_an_empty_cell_and_files_show_all(
    graded: hw.Evaluation, run: Run, queries: Corpus, out: Path
) -> None:
    empty = graded.cell("word-del probability", "bm25-label")
    assert np.isnan(empty.value) and "no words" in empty.notes[0]
    assert graded.used[0].used == 2 and graded.retrains == 9
    again = hw.evaluate(run, ["tracin-we"], ["word-deletion"], queries, out=out, **SETTINGS)
    assert len(list((out / "bank" / "words" / "retrains").iterdir())) == 9
    assert again.cell("word-del margin", "tracin-we") == graded.cell("word-del margin", "tracin-we")
    page = (out / "evaluation.html").read_text()
    assert "by the number of words cut" in page and "as many random words of the same rows" in page
    assert "word-del probability,tracin-we" in (out / "evaluation.csv").read_text()


def test_fewer_retrainings_mean_fewer_queries(run: Run, queries: Corpus, out: Path) -> None:
    settings = SETTINGS | {"retrains": 5, "baselines": False}
    made = hw.evaluate(run, ["tracin-we"], ["word-deletion"], queries, out=out, **settings)
    assert made.used[0].used == 1 and made.retrains == 5
    assert made.cell("word-del margin", "tracin-we").queries == 1
    with pytest.raises(UsageError, match="retrains 4: the least is 5"):
        hw.evaluate(run, ["tracin-we"], ["word-deletion"], queries, out=out, **(settings | {"retrains": 4}))


def test_what_cannot_be_cut_is_refused_before_any_work(run: Run, queries: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of these methods gives words"):
        hw.evaluate(run, ["bm25"], ["word-deletion"], queries, out=tmp_path / "x")
    with pytest.raises(UsageError, match="words must ascend"):
        hw.evaluate(run, ["tracin-we"], ["word-deletion"], queries, out=tmp_path / "x", words=(5, 2))
    assert not (tmp_path / "x").exists()
