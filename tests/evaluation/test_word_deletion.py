"""Word deletion: the right characters go, rows stay, and cutting the words that decide a class really unteaches it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.attribution.words import Word
from headwater.errors import UsageError
from headwater.evaluation.metrics import deletion
from headwater.evaluation.metrics.word_deletion import RowWord, edited, gather, plan, random_words, words_of
from headwater.training import TrainSettings, predict, retrain, train
from language.texts import PAIR_COLUMNS, pair_rows

VERBS = builders.PRAISE + builders.BLAME


def at(row: int, text: str, word: str, part: int = 0) -> RowWord:
    start = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text).start()  # type: ignore[union-attr]
    return RowWord(row, Word(start, start + len(word), part))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hw.Run:
    """A convnet that has learned which verbs are `good`."""
    settings = TrainSettings(model="textcnn", epochs=12, batch_size=8, max_length=24, learning_rate=3e-3, device="cpu")
    folder: Path = tmp_path_factory.mktemp("words") / "run"
    return train(hw.Corpus.read(builders.rows(96)), hw.Classification(), folder, settings)


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("the heron loves bread .", ["loves"], "the heron bread ."),
        ("the heron loves bread .", ["heron", "loves"], "the bread ."),
        ("the heron loves bread .", ["the", "heron", "bread", "."], "loves"),
        ("loves, and loves", ["loves"], ", and loves"),
        ("warm bread.", ["bread"], "warm ."),
        ("two  spaces   here", ["spaces"], "two    here"),
        ("été à l'été", ["à"], "été l'été"),
    ],
)
def test_words_go_with_one_of_the_spaces_around_them(text: str, words: list[str], left: str) -> None:
    corpus = hw.Corpus.read([{"text": "another row", "label": "a"}, {"text": text, "label": "b"}])
    made = edited(corpus, tuple(sorted(at(1, text, word) for word in words)))
    assert [row.text for row in made] == ["another row", left]
    assert [row.label for row in made] == ["a", "b"]
    assert corpus[1].text == text


def test_second_texts_and_completions_are_cut_as_well() -> None:
    pairs = hw.Corpus.read([{"text": "a b", "pair": "c d", "label": "x"}], hw.Columns(text_pair="pair"))
    assert edited(pairs, (RowWord(0, Word(0, 1, 1)),))[0].text_pair == "d"
    completions = hw.Corpus.read(pair_rows(), PAIR_COLUMNS)
    made = edited(completions, (at(0, str(completions[0].label), "warm", part=1),))
    assert made[0].label == " bread ."
    assert made[1].label == completions[1].label
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    talk = hw.Corpus.read([{"messages": turns}], hw.Columns(text="messages", label=None))
    with pytest.raises(UsageError, match="not out of conversations"):
        edited(talk, (RowWord(0, Word(0, 1, 0)),))


def test_a_plan_holds_each_edit_once_and_only_words_that_push_the_asked_way() -> None:
    corpus = hw.Corpus.read(builders.rows(3))
    words = [RowWord(row, Word(0, 3, 0)) for row in range(3)] + [RowWord(0, Word(4, 6, 0))]
    one = dict(zip(words, [0.5, 3.0, 2.0, -1.0], strict=True))
    other = dict(zip(words, [-4.0, 1.0, 2.0, 0.0], strict=True))
    made = plan([one, other], corpus, counts=[2, 4])
    assert made.edits == ((words[1], words[2]), tuple(sorted(words[:3])))
    assert made.of.tolist() == [[0, 1], [0, 0]]
    assert made.cut.tolist() == [[2, 3], [2, 2]]  # words at or below 0 are not named
    lowest = plan([one, other], corpus, counts=[1], opponents=True)
    assert lowest.edits == ((words[3],), (words[0],))
    outputs = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)
    found = gather(made, outputs)
    np.testing.assert_array_equal(found[0], outputs[[0, 1], :, 0])
    np.testing.assert_array_equal(found[1], outputs[[0, 0], :, 1])


def test_no_text_loses_its_last_visible_word() -> None:
    corpus = hw.Corpus.read([{"text": "warm bread", "label": "a"}, {"text": "rain", "label": "b"}])
    words = {RowWord(1, Word(0, 4, 0)): 9.0, RowWord(0, Word(0, 4, 0)): 2.0, RowWord(0, Word(5, 10, 0)): 3.0}
    made = plan([words], corpus, counts=[1, 3])
    assert made.edits == ((RowWord(0, Word(5, 10, 0)),),)
    assert made.cut.tolist() == [[1, 1]]
    assert edited(corpus, made.edits[0])[0].text == "warm"


def test_the_words_of_an_answer_add_up_to_its_scores_without_special_tokens(run: hw.Run) -> None:
    answer = hw.Index.build(run).query(["the heron admires the noisy mill"], labels=["good"], k=5)[0]
    shown = [pair for influence in answer.proponents for pair in influence.words]
    assert any(len(pair.train_spans) > 1 for pair in shown)  # "the" stands twice in a row, and has one score
    words = words_of(answer)
    for influence in (*answer.proponents, *answer.opponents):
        total = sum(score for item, score in words.items() if item.row == influence.example.row)
        assert total == pytest.approx(influence.score - influence.special, rel=0, abs=1e-5 * abs(influence.score))
    assert len({item.row for item in words}) > 5
    for item in words:
        text = run.corpus[item.row].text
        assert re.fullmatch(r"\w+|\.", text[item.word.start : item.word.end])


def test_the_control_draws_from_the_words_that_the_model_reads(run: hw.Run) -> None:
    found = random_words(run, [3, 5, 3])
    for row in (3, 5):
        text = run.corpus[row].text
        spans = {match.span() for match in re.finditer(r"\w+|\.", text)}
        assert {(item.word.start, item.word.end) for item in found if item.row == row} == spans
    assert all(0 < score <= 1 for score in found.values())
    assert found == random_words(run, [5, 3])
    assert found != random_words(run, [5, 3], seed=1)
    long = hw.Corpus.read([{"text": "rain " * 100, "label": "good"}])
    cut = hw.Run(run.folder, long, run.task, run.checkpoints, run.recipe)
    read = run.tokenizer(long[0].text, truncation=True, max_length=24, add_special_tokens=True).input_ids
    assert len(random_words(cut, [0])) == sum(token not in run.tokenizer.all_special_ids for token in read) < 25


def test_cutting_the_words_that_decide_unteaches_and_cutting_random_ones_less(run: hw.Run) -> None:
    queries = hw.Corpus.read(builders.rows(16, seed=9))
    rows = list(run.corpus)
    verbs = {at(row.row, row.text, verb): 1.0 for row in rows for verb in VERBS if f" {verb} " in row.text}
    assert len(verbs) == len(rows)
    made = plan([verbs, random_words(run, range(96))], run.corpus, counts=[len(verbs)])
    assert made.cut.tolist() == [[96], [96]]

    def probabilities(corpus: hw.Corpus) -> np.ndarray:
        model = retrain(run, corpus=corpus)
        return predict(model, run.tokenizer, run.task, queries).true_probabilities

    baseline = probabilities(run.corpus)
    outputs = [probabilities(edited(run.corpus, edit)) for edit in made.edits]
    drops = [deletion.auc(deletion.curves(values[:, None, None], baseline)).mean() for values in outputs]
    assert baseline.mean() > 0.8
    assert drops[0] < -0.3
    assert drops[0] < drops[1] - 0.15


def test_words_that_are_not_there_and_counts_that_make_no_sense_are_refused() -> None:
    corpus = hw.Corpus.read([{"text": "warm bread", "label": "a"}])
    for row, start, end in ((0, 5, 11), (0, 3, 3), (1, 0, 2)):
        with pytest.raises(UsageError, match=r"no word at characters|has no text"):
            edited(corpus, (RowWord(row, Word(start, end, 0)),))
    with pytest.raises(UsageError, match="cut twice"):
        edited(corpus, (RowWord(0, Word(0, 4, 0)), RowWord(0, Word(2, 4, 0))))
    for counts in ([], [0], [2, 1]):
        with pytest.raises(UsageError, match="counts must ascend"):
            plan([{}], corpus, counts=counts)
    with pytest.raises(UsageError, match="no finite number"):
        plan([{RowWord(0, Word(0, 4, 0)): float("nan")}], corpus)
    made = plan([{RowWord(0, Word(0, 4, 0)): 1.0}], corpus, counts=[1])
    with pytest.raises(UsageError, match="edits 1, outputs 2"):
        gather(made, np.zeros((2, 1, 1)))
