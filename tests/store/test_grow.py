"""Growing and compacting a store: the rows that live, readers beside a writer, kills at any moment."""

import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater.errors import StoreError
from headwater.files import write_json
from headwater.gradients import TokenGradients
from headwater.store import Manifest, RowRange, Store, StoredCheckpoint, build_store, join, postings_in_memory
from headwater.store.compact import compact_store, settle
from headwater.store.grow import grow_store
from headwater.store.living import read_living, write_living
from headwater.store.lock import writer_lock
from headwater.store.manifest import read_manifest
from headwater.store.steady import read_steadily
from store.conftest import plan, random_gradients

SIZE = 4
ROUNDS = 3

Texts = Sequence[int]
"""A corpus: each row's content is a number, which its gradients are drawn from."""


def _row(checkpoint: StoredCheckpoint, content: int, row: int) -> TokenGradients:
    return random_gradients(1000 * int(checkpoint.fingerprint[:8], 16) + content, 1, first=row)


def _ranges(texts: Texts, first: int = 0) -> tuple[RowRange, ...]:
    starts = range(0, len(texts), SIZE)
    return tuple(
        RowRange(first + start, first + min(start + SIZE, len(texts)), f"rows {list(texts[start : start + SIZE])}")
        for start in starts
    )


def _plan(texts: Texts, **changes: object) -> Manifest:
    return replace(plan(1, checkpoints=2, ranges=_ranges(texts), dtype="float16"), **changes)


def _save(texts: Texts) -> Callable[[Path], None]:
    return lambda path: write_json(path, list(texts))


def _fresh(folder: Path, texts: Texts) -> Store:
    def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        for row in range(rows.start, rows.stop):
            yield _row(checkpoint, texts[row], row)

    build_store(folder, _plan(texts), gradients_of, others={"texts.json": _save(texts)}, kept=lambda _: None)
    return Store.open(folder)


def _grow(folder: Path, texts: Texts, *, wait: float = 0.0) -> Store:
    """Grow a store of distinct contents into one of `texts`."""
    with writer_lock(folder):
        current = settle(folder, read_manifest(folder))
        known = dict(zip(_texts(folder, current), read_living(folder, current).tolist(), strict=True))
        new = [text for text in texts if text not in known]
        known |= {text: current.rows + place for place, text in enumerate(new)}

        def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
            for row in range(rows.start, rows.stop):
                time.sleep(wait)
                yield _row(checkpoint, new[row - current.rows], row)

        living = np.array([known[text] for text in texts], dtype=np.int64)
        others = {"texts.json": _save(texts)}
        grow_store(
            folder, current, _plan(texts), _ranges(new, current.rows), living, gradients_of, others=others,
            kept=lambda _: None,
        )  # fmt: skip
    return Store.open(folder)


def _compact(folder: Path) -> Store:
    with writer_lock(folder):
        current = settle(folder, read_manifest(folder))
        compact_store(folder, current, _ranges(_texts(folder, current)))
    return Store.open(folder)


def _texts(folder: Path, manifest: Manifest) -> list[int]:
    (name,) = [name for name in manifest.files if name.endswith("texts.json")]
    found: list[int] = json.loads((folder / name).read_text())
    return found


def _scores(store: Store) -> np.ndarray:
    """Two queries with every row of the corpus, over both checkpoints."""
    asked = postings_in_memory(random_gradients(5, 2))
    scores = np.zeros((2, store.manifest.rows), dtype=np.float32)
    for checkpoint in store.manifest.checkpoints:
        for segment in store.segments(checkpoint):
            join(scores, asked, segment, checkpoint.weight)
    return scores if store.living is None else scores[:, store.living]


def _expected(texts: Texts) -> np.ndarray:
    """The same of the gradients themselves, in float64."""
    asked, scores = random_gradients(5, 2), np.zeros((2, len(texts)))
    for checkpoint in _plan(texts).checkpoints:
        for row, content in enumerate(texts):
            found = _row(checkpoint, content, row)
            stored = dict(zip(found.tokens.tolist(), found.gradients.double().numpy(), strict=True))
            for query, token, vector in zip(asked.rows, asked.tokens.tolist(), asked.gradients.double(), strict=True):
                if token in stored:
                    scores[query, row] += checkpoint.weight * float(vector.numpy() @ stored[token])
    return scores


def _agrees(store: Store, texts: Texts) -> bool:
    expected = _expected(texts)
    return bool(np.allclose(_scores(store), expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max()))


FIRST = list(range(10))
CHANGES: dict[str, list[int]] = {
    "rows behind": [*FIRST, *range(20, 31)],
    "one row": [*FIRST, 20],
    "changed": [0, 1, 22, *range(3, 10)],
    "removed": [0, *range(5, 10)],
    "all at once, in another order": [30, *range(9, 4, -1), 31, 0, 32, 33],
    "nothing of what was": [40, 41],
    "another order": FIRST[::-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_rows_added_changed_and_removed_score_as_in_a_fresh_store_and_compact_to_its_bytes(
    name: str, tmp_path: Path, files: Callable[[Path], dict[str, bytes]]
) -> None:
    texts = CHANGES[name]
    before = _fresh(tmp_path / "grown", FIRST)
    before.hold()
    scores, kept = _scores(before), files(tmp_path / "grown")
    grown = _grow(tmp_path / "grown", texts)
    assert _agrees(grown, texts)
    after = files(tmp_path / "grown")
    assert {n: after[n] for n in kept if n.startswith("segments")} == {
        n: data for n, data in kept.items() if n.startswith("segments")
    }
    grown.verify()
    fresh = _fresh(tmp_path / "fresh", texts)
    compact = _compact(tmp_path / "grown")
    assert files(tmp_path / "grown") == files(tmp_path / "fresh")
    compact.verify()
    assert np.array_equal(_scores(compact), _scores(fresh))
    assert np.array_equal(_scores(before), scores)  # opened before all of it, its files long deleted


def test_a_store_grows_and_is_compacted_again_and_again(
    tmp_path: Path, files: Callable[[Path], dict[str, bytes]]
) -> None:
    texts = list(FIRST)
    _fresh(tmp_path / "s", texts)
    chosen = random.Random(3)
    for step in range(8):
        texts = [text for text in texts if chosen.random() < 0.8] + [100 * (step + 1) + n for n in range(3)]
        chosen.shuffle(texts)
        assert _agrees(_grow(tmp_path / "s", texts), texts)
        if step % 3 == 2:
            _compact(tmp_path / "s").verify()
    _compact(tmp_path / "s")
    _fresh(tmp_path / "fresh", texts)
    assert files(tmp_path / "s") == files(tmp_path / "fresh")


def test_rows_without_any_posting_are_compacted_too(
    tmp_path: Path, files: Callable[[Path], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import store.test_grow as here

    real = here._row

    def row(checkpoint: StoredCheckpoint, content: int, number: int) -> TokenGradients:
        found = real(checkpoint, content, number)
        return found if content % 2 else replace(found, gradients=found.gradients * 0)

    monkeypatch.setattr(here, "_row", row)
    texts = [2, 4, 6, 8, 1, 3]
    _fresh(tmp_path / "grown", [0, *texts])
    _grow(tmp_path / "grown", texts)
    _compact(tmp_path / "grown").verify()
    _fresh(tmp_path / "fresh", texts)
    assert files(tmp_path / "grown") == files(tmp_path / "fresh")


def test_a_compaction_that_fails_leaves_the_store_and_nothing_else(
    tmp_path: Path, files: Callable[[Path], dict[str, bytes]]
) -> None:
    _fresh(tmp_path, FIRST)
    manifest = _grow(tmp_path, [*FIRST[2:], 20]).manifest
    name = manifest.segment_path(manifest.checkpoints[1], manifest.ranges[0])
    data = bytearray((tmp_path / name).read_bytes())
    data[20] ^= 1  # in its header
    (tmp_path / name).write_bytes(data)
    before = files(tmp_path)
    with pytest.raises(StoreError, match="damaged"):
        _compact(tmp_path)
    assert files(tmp_path) == before and not (tmp_path / "compacted").exists()


def test_compacting_what_never_grew_changes_nothing(tmp_path: Path, files: Callable[[Path], dict[str, bytes]]) -> None:
    _fresh(tmp_path, FIRST)
    before = files(tmp_path)
    _compact(tmp_path)
    assert files(tmp_path) == before


def test_a_plain_build_does_not_forget_what_a_store_has_grown_by(tmp_path: Path) -> None:
    _fresh(tmp_path, FIRST)
    _grow(tmp_path, [*FIRST, 20])
    with pytest.raises(StoreError, match="has grown"):
        _fresh(tmp_path, FIRST)


UNLIKE: dict[str, tuple[dict[str, object], str]] = {
    "dtype": ({"dtype": "float32"}, r"other options \(dtype='float16', not 'float32'\)"),
    "tokenizer": ({"tokenizer": "words"}, "another tokenizer"),
    "fewer checkpoints": ({"checkpoints": _plan(FIRST).checkpoints[:1]}, "is of checkpoint-1, checkpoint-2"),
    "another model": (
        {"checkpoints": tuple(replace(each, fingerprint="feedbeef") for each in _plan(FIRST).checkpoints)},
        "another model",
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_rows_of_something_else_are_not_added(
    name: str, tmp_path: Path, files: Callable[[Path], dict[str, bytes]]
) -> None:
    changes, message = UNLIKE[name]
    _fresh(tmp_path, FIRST)
    before = files(tmp_path)
    wanted = _plan([*FIRST, 20], **changes)
    living = np.arange(11)
    with pytest.raises(StoreError, match=message):
        grow_store(
            tmp_path, read_manifest(tmp_path), wanted, _ranges([20], 10), living, lambda *_: [], others={},
            kept=lambda _: None,
        )  # fmt: skip
    assert files(tmp_path) == before


DAMAGED = {"a row twice": [0, 1, 1], "a row beyond the end": [0, 99], "a row before the first": [-1, 2], "none": []}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_list_of_living_rows_is_an_error(name: str, tmp_path: Path) -> None:
    _fresh(tmp_path, FIRST)
    manifest = _grow(tmp_path, [*FIRST, 20]).manifest
    write_living(tmp_path / manifest.living, np.array(DAMAGED[name], dtype=np.int64))
    with pytest.raises(StoreError, match="damaged"):
        read_living(tmp_path, manifest)
    with pytest.raises(StoreError, match="truncated"):
        Store.open(tmp_path)


def _forked(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def _killed(work: Callable[[], object], seconds: float) -> None:
    child = _forked(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    child = _forked(work)
    assert os.waitpid(child, 0)[1] == 0
    return time.monotonic() - started


@pytest.mark.parametrize("what", ["append", "compact"])
def test_killed_at_any_moment_it_leaves_the_old_store_or_the_new_and_the_next_writer_finishes(
    what: str, tmp_path: Path, files: Callable[[Path], dict[str, bytes]]
) -> None:
    grown = [50, *FIRST[2:], *range(20, 29)]
    work = _grow if what == "append" else lambda folder, _: _compact(folder)
    before = FIRST if what == "append" else grown

    def prepared(folder: Path) -> Path:
        _fresh(folder, FIRST)
        if what == "compact":
            _grow(folder, grown)
        return folder

    timed = prepared(tmp_path / "timed")
    whole = _timed(lambda: work(timed, grown))
    fresh = _fresh(tmp_path / "fresh", grown)
    chosen = random.Random(11)
    for number in range(ROUNDS):
        folder = prepared(tmp_path / f"{what}-{number}")
        _killed(lambda folder=folder: work(folder, grown), whole * chosen.uniform(0.05, 1.1))
        found = Store.open(folder)
        found.verify()
        texts = _texts(folder, found.manifest)
        assert texts in (before, grown) and _agrees(found, texts)
        other = [texts[0], 77]  # not what the killed one was about: what it left must be in nobody's way
        assert _agrees(_grow(folder, other), other)
        assert _agrees(_grow(folder, grown), grown)
        _compact(folder).verify()
        assert files(folder) == files(fresh.folder)


def _held(folder: Path) -> tuple[Store, list[int]]:
    """Open a store and what lies beside it, as an index does."""
    store = Store.open(folder)
    store.hold()
    return store, _texts(folder, store.manifest)


def test_a_reader_beside_writers_sees_one_state_or_another_and_never_a_mix(tmp_path: Path) -> None:
    states = [FIRST, [*FIRST, 20, 21], [30, *FIRST[3:], 21], FIRST[::-1]]
    expected = {tuple(texts): _expected(texts) for texts in states}
    _fresh(tmp_path, FIRST)

    def write() -> None:
        for step in itertools.count():  # until the reader has seen enough, however slow this machine is
            _grow(tmp_path, states[step % len(states)])
            if step % 2:
                _compact(tmp_path)

    child = _forked(write)
    seen: set[tuple[int, ...]] = set()
    opened = 0
    try:
        while opened <= 10 or len(seen) < 2:
            store, texts = read_steadily(tmp_path, lambda: _held(tmp_path))
            there = expected[tuple(texts)]
            assert np.allclose(_scores(store), there, rtol=2e-3, atol=1e-3 * np.abs(there).max())
            seen.add(tuple(texts))
            opened += 1
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer failed"


def test_a_second_writer_is_told_who_writes_since_when_and_a_dead_one_blocks_nobody(tmp_path: Path) -> None:
    _fresh(tmp_path, FIRST)
    owner = _forked(lambda: _grow(tmp_path, [*FIRST, 20], wait=30))
    while "process" not in (tmp_path / ".lock").read_text() or str(owner) not in (tmp_path / ".lock").read_text():
        time.sleep(0.01)
    try:
        for second in (lambda: _grow(tmp_path, [*FIRST, 21]), lambda: _compact(tmp_path)):
            with pytest.raises(StoreError, match=rf"process {owner} on .*, since 2.* UTC, is writing .* Wait for it"):
                second()
        with pytest.raises(StoreError, match=f"process {owner} on"):
            _in_thread(lambda: _grow(tmp_path, [*FIRST, 21]))
        Store.open(tmp_path).verify()
    finally:
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
    assert _agrees(_grow(tmp_path, [*FIRST, 21]), [*FIRST, 21])


def _in_thread(work: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
