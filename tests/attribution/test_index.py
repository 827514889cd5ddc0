"""The index as a user meets it: what an answer says, and where things lie."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.attribution.explain import both_sides, ends
from headwater.errors import StoreError, UsageError

QUERIES = ["a fine film with a lot of heart", "the worst hour of my life", "the heron hates the rain"]
LABELS = ["good", "bad", "good"]


def test_without_labels_the_last_checkpoint_s_own_prediction_is_explained(run: hw.Run, index: hw.Index) -> None:
    model = run.checkpoints[-1].load()
    encoded = run.tokenizer(QUERIES, padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = torch.softmax(model(**encoded).logits.double(), dim=1)
    names = [model.config.id2label[int(number)] for number in probabilities.argmax(dim=1)]
    answers = index.query(QUERIES)
    for answer, name, row in zip(answers, names, probabilities, strict=True):
        query = answer.query
        assert (query.label, query.predicted, query.given) == (name, name, False)
        assert query.probability == pytest.approx(float(row.max()), rel=1e-5)
        assert query.loss == pytest.approx(-float(row.max().log()), rel=1e-4)
    np.testing.assert_array_equal(index.scores(QUERIES), index.scores(QUERIES, names))
    other = {"good": "bad", "bad": "good"}
    given = index.query(QUERIES, [other[name] for name in names])
    for answer, name, row in zip(given, names, probabilities, strict=True):
        assert (answer.query.label, answer.query.predicted, answer.query.given) == (other[name], name, True)
        assert answer.query.loss == pytest.approx(-float(row.min().log()), rel=1e-4)


def test_a_percentile_is_the_share_of_rows_that_do_not_score_higher(index: hw.Index) -> None:
    scores = index.scores(QUERIES, LABELS)
    for number, answer in enumerate(index.query(QUERIES, LABELS, k=24)):
        assert max(influence.percentile for influence in answer.proponents) == 100
        for influence in (*answer.proponents, *answer.opponents):
            own = scores[number, influence.example.row]
            assert influence.percentile == pytest.approx(100 * float((scores[number] <= own).mean()))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(-3, 3), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_no_row_that_float64_would_list_is_lost_to_rounding(rows: list[tuple[int, int, bool]], k: int) -> None:
    exact = np.array([float(score) for score, _, _ in rows])
    rounded = np.array([score + error / 4 if score else 0 for score, error, _ in rows], dtype=np.float32)
    allowed = np.array([passes for _, _, passes in rows])
    near = ends(rounded, allowed, k, margin=0.75)
    everything = np.flatnonzero(allowed)
    assert both_sides(near, exact[near], k) == both_sides(everything, exact[everything], k)
    assert set(near) <= set(everything)


def test_hubs_are_counted_over_all_lists_of_the_answer(index: hw.Index) -> None:
    answers = index.query(QUERIES, LABELS, k=6)
    lists = [side for answer in answers for side in (answer.proponents, answer.opponents)]
    counts = Counter(influence.example.row for side in lists for influence in side)
    assert max(counts.values()) > 1
    assert all(influence.hub == counts[influence.example.row] for side in lists for influence in side)


def test_k_rows_at_most_each_on_its_own_side_of_zero(index: hw.Index) -> None:
    (answer,) = index.query(QUERIES[0], "good", k=3)
    assert len(answer.proponents) == len(answer.opponents) == 3
    assert all(influence.score > 0 for influence in answer.proponents)
    assert all(influence.score < 0 for influence in answer.opponents)
    scores = index.scores(QUERIES[0], ["good"])[0]
    assert answer.push == pytest.approx(float(scores[scores > 0].sum()), rel=1e-5)
    assert {influence.example.row for influence in answer.proponents} == set(np.argsort(-scores)[:3].tolist())


def test_an_answer_is_plain_json_and_equal_for_equal_questions(run: hw.Run, index: hw.Index) -> None:
    asked: dict[str, Any] = {"k": 4, "synonyms": True, "synonym_threshold": 0.4, "normalize": "train"}
    first, again = (one.query(QUERIES, LABELS, **asked).to_dict() for one in (index, hw.Index.open(index.folder)))
    assert json.loads(json.dumps(first)) == first == again
    assert (first["method"], first["run"]["rows"], first["run"]["labels"]) == ("tracin-we", 24, list(run.label2id))
    assert first["options"]["checkpoints"] == ["checkpoint-1", "checkpoint-2"]
    assert [c["weight"] for c in first["run"]["checkpoints"]] == [c.weight for c in run.checkpoints]
    for asked_text, query in zip(QUERIES, first["queries"], strict=True):
        assert query["text"] == asked_text and query["label_source"] == "given"
        assert len(query["proponents"]) <= 4 and query["summary"]["top_rows"] == len(query["proponents"])
        assert [asked_text[start:end] for start, end, _ in query["words"]] == asked_text.split()
        for row in (*query["proponents"], *query["opponents"]):
            assert row["text"] == run.corpus[row["example"]].text and row["label"] == run.corpus[row["example"]].label
            assert sum(word["score"] for word in row["words"]) == pytest.approx(row["score"])
            assert row["special"] == pytest.approx(sum(word["score"] for word in row["words"] if word["special"]))


def test_one_checkpoint_asked_alone_is_the_only_one_named(index: hw.Index) -> None:
    said = index.query(QUERIES, LABELS, checkpoints=("checkpoint-2",)).to_dict()
    assert said["options"]["checkpoints"] == ["checkpoint-2"] == [c["name"] for c in said["run"]["checkpoints"]]


def test_a_table_has_a_line_for_each_row_of_each_list(index: hw.Index) -> None:
    answers = index.query(QUERIES, LABELS, k=3)
    table = answers.to_pandas()
    assert len(table) == sum(len(answer.proponents) + len(answer.opponents) for answer in answers)
    assert list(table.columns)[:7] == ["query", "query_text", "query_label", "predicted", "side", "rank", "example"]
    first = table[(table["query"] == 1) & (table["side"] == "opponent")]
    assert list(first["rank"]) == list(range(1, len(first) + 1)) and list(first["score"]) == sorted(first["score"])
    assert first.iloc[0]["words"][0][2] == answers[1].opponents[0].words[0].score


def test_answers_are_a_sequence(index: hw.Index) -> None:
    answers = index.query(QUERIES, LABELS, k=1)
    assert len(answers) == 3 and [answer.query.example.text for answer in answers] == QUERIES
    assert answers[-1] is answers[2] and [answer.query.label for answer in answers[1:]] == LABELS[1:]


# Averages over several runs


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> list[hw.Run]:
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (0, 1)]
    models = [[builders.tiny_model("bert", tokenizer, seed=2 * seed + n) for n in (0, 1)] for seed in (3, 4)]
    return [make_run(folder, both, tokenizer, builders.rows(15)) for folder, both in zip(folders, models, strict=True)]


def test_an_index_over_two_runs_scores_the_mean(two_runs: list[hw.Run]) -> None:
    indexes = [hw.Index.build(run, dtype="float32") for run in two_runs]
    both = hw.Index.open([index.folder for index in indexes])
    for options in ({}, {"max_words": 2, "special_tokens": False}):
        parts = [index.scores(QUERIES, LABELS, **options) for index in indexes]
        np.testing.assert_allclose(both.scores(QUERIES, LABELS, **options), sum(parts) / 2, rtol=1e-4, atol=1e-8)
    (answer,) = both.query([QUERIES[0]], ["good"], k=1)
    assert both.query(QUERIES[0]).facts["run"]["seeds"] == 2 and "mean of 2 runs" in repr(both)
    for influence in answer.proponents:
        assert sum(word.score for word in influence.words) == pytest.approx(influence.score, rel=1e-6)
    each = [index.query([QUERIES[0]], ["good"])[0].query for index in indexes]
    assert answer.query.loss == pytest.approx(-np.log(np.mean([np.exp(-query.loss) for query in each])), rel=1e-5)


def test_only_what_belongs_together_is_averaged(
    two_runs: list[hw.Run], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = hw.Index.build(two_runs[0], dtype="float32").folder
    model = builders.tiny_model("bert", tokenizer)
    turned = builders.tiny_model("bert", tokenizer, label2id={"good": 0, "bad": 1})
    rows = builders.rows(15)
    others = {
        "same corpus": make_run(tmp_path / "a", [model], tokenizer, builders.rows(15, seed=1), weights=(1.0,)),
        "same tokenizer and task": make_run(
            tmp_path / "b", [model], tokenizer, rows, weights=(1.0,), task=hw.Classification(max_length=20)
        ),
        "same labels": make_run(tmp_path / "c", [turned], tokenizer, rows, weights=(1.0,)),
    }
    for message, run in others.items():
        with pytest.raises(StoreError, match=message):
            hw.Index.open([folder, hw.Index.build(run).folder])
    with pytest.raises(UsageError, match="2 indexes but 1 runs"):
        hw.Index.open([folder, folder], run=two_runs[0])
    with pytest.raises(UsageError, match="no index given"):
        hw.Index.open([])


# What an answer says of itself


def test_a_query_that_shares_only_special_tokens_says_so_and_is_empty_without_them(index: hw.Index) -> None:
    text = "zzz qqq"
    assert not set(index.run.tokenizer.tokenize(text)) & set(index.run.tokenizer.tokenize("the heron loves bread"))
    (answer,) = index.query([text], ["good"])
    assert answer.proponents and "only special tokens" in answer.notes[0]
    assert all(pair.special for influence in answer.proponents for pair in influence.words)
    (empty,) = index.query([text], ["good"], special_tokens=False)
    assert (empty.proponents, empty.opponents) == ((), ()) and "No training row shares a word" in empty.notes[0]
    assert empty.notes[1] == answer.notes[1] == "No training row pushed anything through: zzz, qqq."
    assert empty.push == 0 and empty.to_dict()["summary"]["top_share"] == 0
    assert not index.scores([text], ["good"], special_tokens=False).any()
    (plain,) = index.query(["the heron"], ["good"])
    assert plain.notes == ()


def test_of_an_index_that_left_words_out_none_is_said_to_be_in_no_row(index: hw.Index, tmp_path: Path) -> None:
    word = "heron"  # rows hold it, and it is not the loudest of any
    assert any(word in row.text for row in index.corpus)
    for number, options in enumerate(({"max_words": 1}, {"energy": 0.2})):
        cut = hw.Index.build(index.run, tmp_path / str(number), show=False, **options)
        (answer,) = cut.query([f"zzz {word}"], ["good"], special_tokens=False)
        assert answer.proponents == () and not any("pushed anything through" in note for note in answer.notes)
        assert answer.notes[0].startswith("Of what this index keeps of its rows, none shares a word with this text")


def test_a_query_that_is_cut_says_so(index: hw.Index) -> None:
    long = "the heron loves warm bread . " * 10
    (answer,) = index.query([long], ["good"])
    assert "longer than 32 tokens" in answer.notes[0]
    shared = [span.start for pair in answer.proponents[0].words for span in pair.query_spans]
    assert max(shared) < len(long) * 0.6  # nothing of what was cut away


# Where things lie


def test_an_index_opens_from_any_working_directory(run: hw.Run, index: hw.Index, tmp_path: Path, monkeypatch) -> None:
    expected = index.scores(QUERIES, LABELS)
    monkeypatch.chdir(run.folder.parent)
    relative = hw.Index.build(run, Path(run.folder.name) / "elsewhere" / "index", dtype="float32").folder
    np.testing.assert_array_equal(hw.Index.open(str(relative)).scores(QUERIES, LABELS), expected)
    absolute = relative.resolve()
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(hw.Index.open(absolute).scores(QUERIES, LABELS), expected)
    np.testing.assert_array_equal(hw.Index.open(os.path.relpath(absolute)).scores(QUERIES, LABELS), expected)


def test_a_run_that_moved_takes_its_index_along_and_is_missed_elsewhere(fresh_run, tmp_path: Path) -> None:
    run = fresh_run()
    inside, outside = hw.Index.build(run), hw.Index.build(run, tmp_path / "out")
    expected = inside.scores(QUERIES, LABELS)
    run.folder.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match=rf"its run has moved from {run.folder}.*Index.open\(path, run="):
        hw.Index.open(outside.folder)
    np.testing.assert_array_equal(hw.Index.open(tmp_path / "moved" / "index").scores(QUERIES, LABELS), expected)
    again = hw.Run.create(
        tmp_path / "anew", corpus=run.corpus, task=run.task,
        checkpoints=[(tmp_path / "moved" / c.path.name, c.weight) for c in run.checkpoints],
    )  # fmt: skip
    np.testing.assert_array_equal(hw.Index.open(outside.folder, run=again).scores(QUERIES, LABELS), expected)
    with pytest.raises(StoreError, match="damaged"):
        (outside.folder / "source.json").write_text("{")
        hw.Index.open(outside.folder)
    (outside.folder / "source.json").unlink()
    with pytest.raises(StoreError, match="not known of which run"):
        hw.Index.open(outside.folder)
    with pytest.raises(StoreError, match="no index here"):
        hw.Index.open(tmp_path / "nowhere")


def test_many_queries_are_answered_block_by_block_as_one_by_one(index: hw.Index) -> None:
    texts = [example.text for example in index.corpus] * 6
    answers = index.query(texts, ["good"] * len(texts), k=2)
    assert len(answers) == 144
    alone = index.query([texts[140]], ["good"], k=2)[0]
    assert [i.example.row for i in answers[140].proponents] == [i.example.row for i in alone.proponents]
    assert answers[140].proponents[0].score == pytest.approx(alone.proponents[0].score, rel=1e-5)


def test_a_corpus_of_queries_keeps_its_ids_and_a_table_of_pandas_will_do(index: hw.Index) -> None:
    rows = [{"name": f"q{n}", "body": text} for n, text in enumerate(QUERIES)]
    corpus = hw.Corpus.read(rows, hw.Columns(text="body", label=None, id="name"))
    assert [answer.query.example.id for answer in index.query(corpus, LABELS)] == ["q0", "q1", "q2"]
    import pandas

    table = pandas.DataFrame({"text": QUERIES})
    np.testing.assert_array_equal(index.scores(table, LABELS), index.scores(QUERIES, LABELS))


def test_an_index_of_one_row_answers(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    run = make_run(tmp_path, [builders.tiny_model("bert", tokenizer)], tokenizer, builders.rows(1), weights=(1.0,))
    index = hw.Index.build(run)
    assert len(index) == 1 and index.scores(["the heron"], ["good"]).shape == (1, 1)
    (answer,) = index.query(["the heron"], ["good"])
    assert len(answer.proponents) + len(answer.opponents) == 1
    assert (*answer.proponents, *answer.opponents)[0].percentile == 100
