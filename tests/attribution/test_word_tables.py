"""Word tables: sums over the inverted index are the sums of the pairs of words that answers show."""

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import headwater as hw
from headwater.attribution.kept_tables import FOLDER
from headwater.attribution.word_tables import LISTED, pushed_through, word_table
from headwater.errors import StoreError
from headwater.progress import stages_to


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    import builders
    from cli.conftest import TRAIN, headwater, write_rows

    folder = tmp_path_factory.mktemp("words")
    train = write_rows(folder / "train.jsonl", builders.rows(50, seed=1))
    held = write_rows(folder / "held.jsonl", builders.rows(40, seed=2))
    called = headwater("train", "--data", train, "--eval", held, *TRAIN, "--out", folder / "run")
    assert called.code == 0, called.stderr
    called = headwater("index", folder / "run")
    assert called.code == 0, called.stderr
    return hw.Index.open(folder / "run" / "index")


def test_a_words_push_is_the_sum_of_its_pairs_over_all_rows_and_queries(index: hw.Index) -> None:
    queries = index.run.eval_corpus
    table = word_table(index, queries, show=False)
    labels = [str(example.label) for example in queries]
    answers = index.query(queries, labels, len(index), show=False).to_dict()["queries"]
    push: dict[tuple[str, str], float] = defaultdict(float)
    special: dict[str, float] = defaultdict(float)
    by_row: dict[tuple[int, str, str], float] = defaultdict(float)
    by_query: dict[tuple[int, str], float] = defaultdict(float)
    for number, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        for found in [*answer["proponents"], *answer["opponents"]]:
            for pair in found["words"]:
                if pair.get("special"):
                    special[label] += pair["score"]
                    continue
                word = pair["train"].casefold()
                push[word, label] += pair["score"]
                by_row[found["example"], word, label] += pair["score"]
                by_query[number, word] += pair["score"]
    scale = np.abs(table.push).max()
    assert {word for word, _ in push} == set(table.words)
    for at, label in enumerate(table.labels):
        assert table.queries[at] == labels.count(label)
        assert table.special[at] == pytest.approx(special[label], abs=1e-5 * scale)
        for number, word in enumerate(table.words):
            assert table.push[number, at] == pytest.approx(push[word, label], abs=1e-5 * scale), (word, label)
    for row, word, pushes in zip(table.entry_rows, table.entry_words, table.entry_push, strict=True):
        for at, label in enumerate(table.labels):
            assert pushes[at] == pytest.approx(by_row[int(row), table.words[word], label], abs=1e-5 * scale)
    strongest = int(np.abs(table.push).sum(axis=1).argmax())
    told = table.moved(strongest)
    for number in range(len(queries)):
        assert told[number] == pytest.approx(by_query[number, table.words[strongest]], abs=1e-5 * scale)


def test_all_words_and_special_tokens_add_up_to_all_scores(index: hw.Index) -> None:
    queries = index.run.eval_corpus
    table = word_table(index, queries, show=False)
    labels = [str(example.label) for example in queries]
    scores = index.scores(queries, labels, show=False).astype(np.float64)
    for at, label in enumerate(table.labels):
        mine = [number for number, each in enumerate(labels) if each == label]
        assert table.whole[at] == pytest.approx(scores[mine].sum(), rel=1e-4, abs=1e-9)
    assert table.number(table.words[0].upper()) == 0 and table.number("no such word") is None


def test_one_words_pushes_are_its_entries_of_the_table(index: hw.Index) -> None:
    queries = index.run.eval_corpus.take(range(12))
    table = word_table(index, queries, show=False)
    for number, word in enumerate(table.words):
        rows, pushes = pushed_through(index, queries, word.upper(), show=False)
        where = table.entries(number)
        assert rows.tolist() == table.entry_rows[where].tolist()
        assert pushes == pytest.approx(table.entry_push[where].sum(axis=1), rel=1e-9)
    assert [len(each) for each in pushed_through(index, queries, "no such word", show=False)] == [0, 0]


def test_words_of_an_index_without_token_gradients_are_an_error(index: hw.Index, tmp_path: Path) -> None:
    hw.Index.build(index.run, tmp_path / "other", method="representation-cosine", show=False)
    with pytest.raises(StoreError, match="token gradients"):
        word_table(hw.Index.open(tmp_path / "other"), index.run.eval_corpus, show=False)


def test_a_table_is_kept_beside_the_index_and_read_again_to_the_bit(index: hw.Index, tmp_path: Path) -> None:
    here = _copied(index, tmp_path)
    queries = here.run.eval_corpus
    made = word_table(here, queries, show=False)
    (path,) = (here.folder / FOLDER).glob("words-*")
    seen = path.stat().st_mtime_ns
    stages: list[str] = []
    with stages_to(lambda stage: stages.append(stage.title)):
        again = word_table(hw.Index.open(here.folder), queries, show=False)
    assert stages == [] and path.stat().st_mtime_ns == seen  # nothing was passed through a model
    assert (again.words, again.labels, again.queries) == (made.words, made.labels, made.queries)
    for name in ("push", "special", "entry_rows", "entry_words", "entry_push", "move_push"):
        assert np.array_equal(getattr(again, name), getattr(made, name)), name
    strongest = int(np.abs(made.push).sum(axis=1).argmax())
    assert np.array_equal(again.moved(strongest), made.moved(strongest))


def test_a_kept_table_is_not_read_for_other_texts_or_rows_nor_when_damaged(index: hw.Index, tmp_path: Path) -> None:
    here = _copied(index, tmp_path)
    queries = here.run.eval_corpus
    made = word_table(here, queries, show=False)
    assert word_table(here, queries.take(range(20)), show=False).queries != made.queries
    assert len(list((here.folder / FOLDER).glob("words-*"))) == 1  # that of the other texts is gone
    word_table(here, queries, show=False)
    (path,) = (here.folder / FOLDER).glob("words-*")
    path.write_bytes(path.read_bytes()[:-100])
    assert np.array_equal(word_table(here, queries, show=False).push, made.push)
    rows = list(here.corpus.rows(0, len(here.corpus)))
    fewer = [{"text": row.text, "label": row.label} for row in rows[:40]]
    grown = hw.Index.build(here.run, corpus=fewer, show=False)
    assert word_table(grown, queries, show=False).entry_rows.max() < 40 <= made.entry_rows.max()


def _copied(index: hw.Index, tmp_path: Path) -> hw.Index:
    """The index and its run in a folder of the test's own, without tables."""
    shutil.copytree(index.run.folder, tmp_path / "run", ignore=shutil.ignore_patterns(FOLDER))
    return hw.Index.open(tmp_path / "run" / "index")


def test_hubs_are_counted_over_the_lists_of_all_queries(index: hw.Index) -> None:
    queries = index.run.eval_corpus
    table = word_table(index, queries, show=False)
    labels = [str(example.label) for example in queries]
    counts: dict[int, int] = defaultdict(int)
    for item in index.query(queries, labels, LISTED, show=False):
        for part in (*item.proponents, *item.opponents):
            counts[part.example.row] += 1
    assert {row: int(count) for row, count in enumerate(table.hubs) if count} == counts
