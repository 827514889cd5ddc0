"""An index that goes by a corpus it was given: rows added, changed and removed, compaction, processes beside it."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import builders
import headwater as hw
import headwater.attribution.build
from attribution.conftest import make_run
from headwater.errors import DataError, StoreError, UsageError

QUERIES = ["a good and happy film", "the boat was bad", "seven old dogs"]
RANGE_ROWS = 16
ROUNDS = 2

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headwater.attribution.build, "RANGE_ROWS", RANGE_ROWS)


def _rows(count: int = 44, *, ids: bool = False) -> Rows:
    rows = builders.rows(count, seed=4)
    return [{**row, "id": f"row-{number}", "source": "first"} if ids else row for number, row in enumerate(rows)]


def _corpus(rows: Rows, *, ids: bool = False) -> hw.Corpus:
    return hw.Corpus.read(rows, hw.Columns(id="id") if ids else hw.Columns(), name="new rows")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> hw.Run:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    return make_run(tmp_path_factory.mktemp("run"), models, tokenizer, _rows()[:24])


def _build(run: hw.Run, folder: Path, rows: Rows | None = None, *, ids: bool = False) -> hw.Index:
    corpus = None if rows is None else _corpus(rows, ids=ids)
    return hw.Index.build(run, folder, corpus=corpus, dtype="float32", show=False)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def _same_answers(one: hw.Index, other: hw.Index) -> None:
    """Scores, rows, texts and words; gradients were computed in other batches, so not to the last bit."""
    scores, expected = one.scores(QUERIES, show=False), other.scores(QUERIES, show=False)
    largest = float(np.abs(expected).max())
    assert scores.shape == expected.shape == (len(QUERIES), len(other.corpus))
    assert np.allclose(scores, expected, rtol=0, atol=1e-5 * largest)
    for way in ("full", "pruned"):
        answers = zip(one.query(QUERIES, k=4, search=way), other.query(QUERIES, k=4, search="full"), strict=True)
        for found, wanted in answers:
            for side in ("proponents", "opponents"):
                ours, theirs = getattr(found, side), getattr(wanted, side)
                assert [each.example for each in ours] == [each.example for each in theirs]
                for mine, other_ in zip(ours, theirs, strict=True):
                    assert mine.score == pytest.approx(other_.score, rel=1e-4, abs=1e-6 * largest)
                    assert _words(mine, largest) == pytest.approx(_words(other_, largest), abs=1e-4 * largest)


def _words(influence: Any, largest: float) -> dict[tuple[str, str], float]:
    pairs = [pair for pair in influence.words if abs(pair.score) > 1e-3 * largest]
    return {(pair.train, pair.query): pair.score for pair in sorted(pairs, key=lambda p: (p.train, p.query))}


ROWS = _rows()
CHANGES: dict[str, Rows] = {
    "rows behind": ROWS[:40],
    "changed": [*ROWS[:5], {**ROWS[5], "label": "bad" if ROWS[5]["label"] == "good" else "good"}, *ROWS[6:24]],
    "removed": ROWS[3:20],
    "all at once, in another order": [*ROWS[30:35], *ROWS[20:8:-1], ROWS[0], ROWS[43]],
    "twins": [*ROWS[:24], ROWS[2], ROWS[2]],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_grown_index_answers_as_a_fresh_one_of_the_same_corpus_and_compacts_to_its_files(
    name: str, trained: hw.Run, tmp_path: Path
) -> None:
    rows = CHANGES[name]
    _build(trained, tmp_path / "grown")
    grown, fresh = _build(trained, tmp_path / "grown", rows), _build(trained, tmp_path / "fresh", rows)
    assert [each.text for each in grown.corpus] == [row["text"] for row in rows]
    _same_answers(grown, fresh)
    _same_answers(hw.Index.open(tmp_path / "grown"), fresh)
    before = grown.scores(QUERIES, show=False)
    compact = grown.compact()
    assert (grown.dead > 0) == (name not in ("rows behind", "twins")) and compact.dead == 0
    compact.verify()
    _same_answers(compact, fresh)
    assert np.array_equal(grown.scores(QUERIES, show=False), before)  # its files are long deleted
    names = [{str(p.relative_to(each.folder)) for p in each.folder.rglob("*")} for each in (compact, fresh)]
    assert names[0] == names[1]
    for file in ("examples.parquet", "source.json"):
        assert (compact.folder / file).read_bytes() == (fresh.folder / file).read_bytes()


def test_only_new_rows_take_a_pass(trained: hw.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headwater.attribution.grow as grow

    _build(trained, tmp_path / "i")
    seen: list[int] = []
    real = grow.token_gradients

    def counted(model: Any, batches: Any, losses: Any) -> Any:
        seen.append(sum(len(batch.rows) for batch in batches))
        return real(model, batches, losses)

    monkeypatch.setattr(grow, "token_gradients", counted)
    _build(trained, tmp_path / "i", ROWS[4:27])
    assert seen == [3, 3]  # at each of two checkpoints
    _build(trained, tmp_path / "i", ROWS[4:27])
    _build(trained, tmp_path / "i")
    assert seen == [3, 3]


def test_rows_are_known_by_their_ids_and_other_columns_may_change(trained: hw.Run, tmp_path: Path) -> None:
    rows = _rows(24, ids=True)
    _build(trained, tmp_path / "i", rows, ids=True)
    changed = [{**row, "source": "second"} for row in rows]
    changed[3] = {**changed[3], "text": rows[8]["text"], "label": rows[8]["label"]}  # now a twin of row 8
    index = _build(trained, tmp_path / "i", changed[1:], ids=True)
    assert index.dead == 2 and len(index) == 23
    (why,) = index.query([rows[8]["text"]], k=30, where={"source": "second"})
    shown = {each.example.id: each.example.text for each in (*why.proponents, *why.opponents)}
    assert shown["row-3"] == shown["row-8"] == rows[8]["text"] and "row-0" not in shown
    with pytest.raises(UsageError, match="no row has 'first'"):
        index.query(["good"], where={"source": "first"})


def test_an_index_says_which_rows_the_run_was_not_trained_on(trained: hw.Run, tmp_path: Path) -> None:
    assert not any("after the training" in note for note in _build(trained, tmp_path / "i").run.warnings)
    index = _build(trained, tmp_path / "i", ROWS[:30])
    assert any(note.startswith("6 of the 30 rows were added or changed after") for note in index.run.warnings)
    assert any("6 of the 30" in note for note in index.query(["good"]).to_dict()["run"]["warnings"])
    assert len(trained.corpus) == 24


def test_without_a_corpus_an_index_that_was_given_one_keeps_to_it(trained: hw.Run, tmp_path: Path) -> None:
    _build(trained, tmp_path / "i")
    before = _build(trained, tmp_path / "i", ROWS[2:30]).scores(QUERIES, show=False)
    files = _files(tmp_path / "i")
    again = _build(trained, tmp_path / "i")
    assert np.array_equal(again.scores(QUERIES, show=False), before)
    assert files == _files(tmp_path / "i")
    _same_answers(_build(trained, tmp_path / "i", ROWS[:24]).compact(), _build(trained, tmp_path / "own"))


def test_an_index_that_has_grown_is_never_taken_for_one_of_the_runs_own_rows(trained: hw.Run, tmp_path: Path) -> None:
    _build(trained, tmp_path / "i")
    grown = _build(trained, tmp_path / "i", ROWS[6:30])  # as many rows as the run has
    assert len(grown) == len(trained.corpus)
    (tmp_path / "i" / "source.json").unlink()
    again = hw.Index.open(tmp_path / "i", run=trained)
    assert [each.text for each in again.corpus] == [row["text"] for row in ROWS[6:30]]
    with pytest.raises(StoreError, match=r"source\.json: names no run"):
        again.compact()
    _build(trained, tmp_path / "i").compact()
    (tmp_path / "i" / "source.json").unlink()
    with pytest.raises(StoreError, match="another corpus"):
        hw.Index.open(tmp_path / "i", run=trained)


FOLLOWERS = {"representer": {}, "logra": {"layers": "all"}}


def _followed(run: hw.Run, folder: Path, rows: Rows | None, method: str) -> hw.Index:
    corpus = None if rows is None else _corpus(rows)
    return hw.Index.build(run, folder, corpus=corpus, method=method, show=False, **FOLLOWERS[method])


@pytest.mark.parametrize("method", FOLLOWERS)
@pytest.mark.parametrize("change", CHANGES)
def test_other_files_follow_token_gradients_and_are_then_those_of_a_fresh_build(
    change: str, method: str, trained: hw.Run, tmp_path: Path
) -> None:
    folder = tmp_path / "i"
    _build(trained, folder)
    _followed(trained, folder, None, method)
    with pytest.raises(StoreError, match=r"token gradients are of another corpus than new rows\. Add its rows to them"):
        _followed(trained, folder, CHANGES[change], method)
    grown = _build(trained, folder, CHANGES[change])
    with pytest.raises(StoreError, match="not indexed here, or not since its corpus changed"):
        grown.scores(QUERIES, method=method, show=False)
    grown = _followed(trained, folder, None, method)
    fresh = _followed(trained, tmp_path / "fresh", CHANGES[change], method)
    scores, expected = (index.scores(QUERIES, method=method, show=False) for index in (grown, fresh))
    assert np.allclose(scores, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert {p.name for p in folder.rglob("segments/*/*")} >= {p.name for p in fresh.folder.rglob("segments/*/*")}
    grown.verify()
    compact = grown.compact()
    assert np.array_equal(compact.scores(QUERIES, method=method, show=False), scores)


@pytest.mark.parametrize("method", FOLLOWERS)
def test_files_that_stand_alone_follow_a_corpus_and_only_new_rows_take_a_pass(
    method: str, trained: hw.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "i"
    before = _followed(trained, folder, ROWS[:24], method)
    passed: list[int] = []
    encode = type(trained.task).encode
    monkeypatch.setattr(
        type(trained.task), "encode", lambda task, words, rows: passed.append(len(rows)) or encode(task, words, rows)
    )
    index = _followed(trained, folder, [*ROWS[5:24], *ROWS[30:33], ROWS[0]], method)
    assert sum(passed) == 3, "rows that moved were computed again"
    monkeypatch.undo()
    assert [example.text for example in index.corpus][-1] == ROWS[0]["text"]
    if method == "representer":  # and a method whose scores depend on no other rows
        old, new = (each.scores(QUERIES, method="representation-cosine", show=False) for each in (before, index))
        assert np.array_equal(new[:, :19], old[:, 5:]) and np.array_equal(new[:, -1], old[:, 0])


@pytest.mark.parametrize("ends", range(1, 9))
def test_files_killed_as_they_follow_are_the_old_ones_or_the_new_and_then_follow(
    ends: int, trained: hw.Run, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "i", tmp_path / "whole"
    for place in (folder, whole):
        _followed(trained, place, ROWS[:24], "representer")
    _followed(trained, whole, ROWS[2:44], "representer")
    child = os.fork()
    if child == 0:
        rename, done = Path.replace, list[Path]()

        def replace(path: Path, target: Path) -> Path:
            if "representations" in str(target):
                done.append(target)
            if len(done) == ends:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.replace = replace  # type: ignore[method-assign,assignment]
        _followed(trained, folder, ROWS[2:44], "representer")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    _followed(trained, folder, None, "representer").verify()
    there, wanted = (_files(place / "representations") for place in (folder, whole))
    assert {p.relative_to(folder): b for p, b in there.items()} == {p.relative_to(whole): b for p, b in wanted.items()}


REFUSED: dict[str, tuple[Callable[[], hw.Corpus], str]] = {
    "a label of no class": (lambda: _corpus([*ROWS[:24], {"text": "so", "label": "so-so"}]), "so-so"),
    "pairs": (
        lambda: hw.Corpus.read(builders.rows(8, pairs=True), hw.Columns(text_pair="pair")),
        "rows are pairs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_corpus_that_the_run_cannot_read_is_refused_and_nothing_changes(
    name: str, trained: hw.Run, tmp_path: Path
) -> None:
    make, message = REFUSED[name]
    _build(trained, tmp_path / "i")
    before = _files(tmp_path / "i")
    with pytest.raises(DataError, match=message):
        hw.Index.build(trained, tmp_path / "i", corpus=make(), dtype="float32", show=False)
    assert before == _files(tmp_path / "i")


def test_indexes_that_grew_otherwise_are_not_averaged_before_they_are_compacted(
    trained: hw.Run, tmp_path: Path, tokenizer: Any
) -> None:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (2, 3)]
    other = make_run(tmp_path / "run", models, tokenizer, ROWS[:24])
    for run, folder in ((trained, tmp_path / "one"), (other, tmp_path / "two")):
        _build(run, folder)
        _build(run, folder, ROWS[2:30])
    both = [tmp_path / "one", tmp_path / "two"]
    mean = hw.Index.open(both).scores(QUERIES, show=False)
    hw.Index.open(both[0]).compact()
    with pytest.raises(StoreError, match=r"has grown otherwise than .* `headwater compact` both"):
        hw.Index.open(both)
    hw.Index.open(both[1]).compact()
    assert np.allclose(hw.Index.open(both).scores(QUERIES, show=False), mean, atol=1e-7)


def _forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_an_index_killed_as_it_grows_is_the_old_one_or_the_new_and_grows_on(trained: hw.Run, tmp_path: Path) -> None:
    rows = ROWS[2:44]
    _build(trained, tmp_path / "timed")
    started = time.monotonic()
    fresh = _build(trained, tmp_path / "timed", rows).compact()
    whole = time.monotonic() - started
    chosen = random.Random(5)
    for number in range(ROUNDS):
        folder = tmp_path / f"i-{number}"
        _build(trained, folder)
        child = _forked(lambda folder=folder: _build(trained, folder, rows).compact())
        time.sleep(whole * chosen.uniform(0.1, 0.9))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        index = hw.Index.open(folder)
        index.verify()
        assert len(index) in (24, len(rows))
        index.query(["good"])
        _same_answers(_build(trained, folder, rows), fresh)


def test_a_reader_beside_a_growing_index_opens_one_state_or_another(trained: hw.Run, tmp_path: Path) -> None:
    _build(trained, tmp_path / "i")
    states = {24: ROWS[:24], 30: ROWS[:30], 26: ROWS[4:30]}

    def write() -> None:
        for rows in states.values():
            _build(trained, tmp_path / "i", rows)
        hw.Index.open(tmp_path / "i").compact()

    child = _forked(write)
    seen: set[int] = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        index = hw.Index.open(tmp_path / "i", run=trained)
        assert [each.text for each in index.corpus] == [row["text"] for row in states[len(index)]]
        assert index.scores(QUERIES, ["good"] * 3, show=False).shape == (3, len(index))
        seen.add(len(index))
    assert seen


def test_a_second_writer_is_told_who_the_first_is(trained: hw.Run, tmp_path: Path) -> None:
    from headwater.store.lock import writer_lock

    _build(trained, tmp_path / "i")
    index = _build(trained, tmp_path / "i", ROWS[:30])
    with writer_lock(tmp_path / "i"):
        for write in (lambda: _build(trained, tmp_path / "i", ROWS[:33]), index.compact):
            with pytest.raises(StoreError, match=rf"process {os.getpid()} on .*, since .* is writing to this index"):
                write()
    assert len(hw.Index.open(tmp_path / "i")) == 30
