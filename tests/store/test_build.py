"""Building: what is whole is kept, what is missing is written, what is of something else is refused."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headwater.errors import StoreError
from headwater.gradients import TokenGradients
from headwater.store import Manifest, RowRange, Store, StoredCheckpoint, build_store
from headwater.store.lock import writer_lock
from store.conftest import build, gradients_of, plan


def _never(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
    raise AssertionError(f"built again: {checkpoint.name}, rows {rows.start}")
    yield


def _again(store: Store, wanted: Manifest, gradients=_never) -> Store:
    def write(path: Path) -> None:
        path.write_text("one\ntwo\n")

    build_store(store.folder, wanted, gradients, others={"rows.txt": write}, kept=lambda _: None)
    return Store.open(store.folder)


def test_a_finished_store_is_kept_as_it_is(store: Store, files) -> None:
    before = files(store.folder)
    kept: list[int] = []
    build_store(store.folder, plan(10, checkpoints=2), _never, others={"rows.txt": lambda _: None}, kept=kept.append)
    assert files(store.folder) == before and sum(kept) == 2 * 10


def test_what_is_missing_is_built_again_to_the_same_bytes(store: Store, files) -> None:
    before = files(store.folder)
    for name in before:
        (store.folder / name).unlink()
        _again(store, plan(10, checkpoints=2), gradients_of)
        assert files(store.folder) == before


def test_more_checkpoints_are_more_files(store: Store, files) -> None:
    before = files(store.folder)
    more = _again(store, plan(10, checkpoints=3), gradients_of)
    assert len(more.manifest.checkpoints) == 3
    after = files(store.folder)
    assert all(after[name] == data for name, data in before.items() if name.startswith("segments"))


def test_other_weights_of_checkpoints_change_the_manifest_alone(store: Store) -> None:
    wanted = plan(10, checkpoints=2)
    first, second = wanted.checkpoints
    heavier = _again(store, replace(wanted, checkpoints=(replace(first, weight=7.0), second)))
    assert [checkpoint.weight for checkpoint in heavier.manifest.checkpoints] == [7.0, second.weight]


OTHERS = {
    "tokenizer": ({"tokenizer": "words"}, "another tokenizer"),
    "corpus": ({"ranges": (RowRange(0, 4, "other rows"), *plan(10).ranges[1:])}, "another corpus"),
    "task": ({"task": {"kind": "classification", "max_length": 7}}, "another task or max_length"),
    "dtype": ({"dtype": "float16"}, r"other options \(dtype='float32', not 'float16'\)"),
    "max_words": ({"max_words": 5}, r"other options \(max_words=None, not 5\)"),
    "torch": ({"built_with": {"torch": "3", "device": "abacus"}}, "another torch build or device"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("finished", [True, False])
def test_segments_of_something_else_are_refused_each_by_name(name: str, finished: bool, store: Store, files) -> None:
    change, message = OTHERS[name]
    if not finished:
        (store.folder / "manifest.json").unlink()
    before = files(store.folder)
    with pytest.raises(StoreError, match=message) as caught:
        _again(store, plan(10, checkpoints=2, **change), gradients_of)
    assert "--out" in str(caught.value) and files(store.folder) == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_the_same_name_and_other_weights_is_another_model(finished: bool, store: Store, files) -> None:
    wanted = plan(10, checkpoints=2)
    other = replace(wanted.checkpoints[1], fingerprint="feedbeef")
    if not finished:
        (store.folder / "manifest.json").unlink()
    before = files(store.folder)
    with pytest.raises(StoreError, match="another model: the checkpoint's weights differ"):
        _again(store, replace(wanted, checkpoints=(wanted.checkpoints[0], other)), gradients_of)
    assert files(store.folder) == before


def test_checkpoints_whose_names_differ_in_odd_characters_do_not_meet(tmp_path: Path) -> None:
    checkpoints = tuple(StoredCheckpoint(name, f"{n:08x}", 1.0) for n, name in enumerate(("a b", "a_b", "..", "é")))
    wanted = replace(plan(3), checkpoints=checkpoints)
    store = build(tmp_path / "s", wanted)
    assert len(store.manifest.files) == 1 + 4
    _again(store, wanted).verify()


def test_a_damaged_segment_is_not_blessed_by_building_again(store: Store) -> None:
    name = sorted(store.manifest.files)[-1]
    data = bytearray((store.folder / name).read_bytes())
    data[-1] ^= 1
    (store.folder / name).write_bytes(data)
    with pytest.raises(StoreError, match=r"its bytes have changed since it was written\. Delete it"):
        _again(store, plan(10, checkpoints=2), gradients_of)
    (store.folder / name).unlink()
    _again(store, plan(10, checkpoints=2), gradients_of).verify()


def test_leftovers_of_a_killed_build_are_removed_everywhere(store: Store) -> None:
    for folder in (store.folder, *(path for path in (store.folder / "segments").iterdir())):
        (folder / ".half.safetensors.x7.part").write_text("half")
    _again(store, plan(10, checkpoints=2))
    assert not list(store.folder.rglob("*.part"))


def test_an_error_in_the_middle_leaves_whole_segments_and_no_manifest(tmp_path: Path) -> None:
    class DiskFullError(Exception):
        pass

    def broken(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
        yield from gradients_of(checkpoint, rows)
        if rows.start == 4:
            raise DiskFullError

    with pytest.raises(DiskFullError):
        build_store(tmp_path, plan(10), broken, others={}, kept=lambda _: None)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["000000000-000000004.safetensors"]
    assert not (tmp_path / "manifest.json").exists() and not list(tmp_path.rglob("*.part"))


def _forked(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def _hold(folder: Path, ready: Path) -> None:
    with writer_lock(folder):
        ready.touch()
        time.sleep(60)


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_blocks_nobody(store: Store) -> None:
    ready = store.folder.parent / "ready"
    owner = _forked(lambda: _hold(store.folder, ready))
    try:
        while not ready.exists():
            time.sleep(0.01)
        with pytest.raises(StoreError, match=rf"process {owner} on .* is writing to this index"):
            _again(store, plan(10, checkpoints=2))
        Store.open(store.folder).verify()  # reading needs no lock
    finally:
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
    _again(store, plan(10, checkpoints=2))


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .*--out"):
        build(tmp_path / "file" / "index", plan(3))
