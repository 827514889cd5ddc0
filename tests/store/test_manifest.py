"""The manifest: every kind of damage to an index is its own clear error, and never a wrong answer."""

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.errors import HeadwaterError, StoreError
from headwater.files import canonical_json, digest
from headwater.store import Store
from headwater.store.manifest import NAME, read_manifest, write_manifest
from store.conftest import build, plan

Change = Callable[[dict[str, Any]], object]


def _rewrite(folder: Path, change: Change) -> None:
    """Change a manifest and sign it again, as a bug or a forger would."""
    values = json.loads((folder / NAME).read_text())
    values.pop("xxh3")
    change(values)
    values["xxh3"] = digest([canonical_json(values)])
    (folder / NAME).write_text(json.dumps(values))


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    task = {"kind": "pairs", "class_weights": {"é": 0.1, "b": 3.0}, "max_length": None}
    wanted = build(tmp_path / "s", plan(10, checkpoints=2, task=task, max_words=3)).manifest
    assert asdict(read_manifest(tmp_path / "s")) == asdict(wanted) and wanted.rows == 10
    before = (tmp_path / "s" / NAME).read_bytes()
    write_manifest(tmp_path / "s", read_manifest(tmp_path / "s"))
    assert (tmp_path / "s" / NAME).read_bytes() == before


def test_a_folder_without_an_index_and_an_unfinished_index_say_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no index here .*headwater index RUN"):
        Store.open(tmp_path / "nowhere")
    (store.folder / NAME).unlink()
    with pytest.raises(StoreError, match=r"unfinished.* it resumes"):
        Store.open(store.folder)


def _gap(values: dict[str, Any]) -> None:
    values["ranges"][1]["start"] += 1


def _out(values: dict[str, Any]) -> None:
    values["files"]["../../home/secret"] = values["files"].pop("rows.txt")


def _absolute(values: dict[str, Any]) -> None:
    values["files"]["/etc/passwd"] = values["files"].pop("rows.txt")


def _name_leads_out(values: dict[str, Any]) -> None:
    values["checkpoints"][0]["fingerprint"] = "../../.."


DAMAGES: dict[str, tuple[Change, str]] = {
    "newer": (lambda values: values.update(format=2), r"index format 2, .*Upgrade Headwater"),
    "gap": (_gap, "row ranges are not in order"),
    "overlap": (lambda values: values["ranges"].insert(0, values["ranges"][0]), "row ranges are not in order"),
    "backwards": (lambda values: values["ranges"].reverse(), "row ranges are not in order"),
    "no rows": (lambda values: values["ranges"].clear(), "no rows or no checkpoints"),
    "no checkpoints": (lambda values: values["checkpoints"].clear(), "no rows or no checkpoints"),
    "out of the folder": (_out, "leads out of the index"),
    "absolute": (_absolute, "leads out of the index"),
    "fingerprint": (_name_leads_out, "lacks a segment"),
    "lacks a segment": (lambda values: values["files"].pop(sorted(values["files"])[-1]), "lacks a segment"),
    "weight": (lambda values: values["checkpoints"][1].update(weight="much"), "damaged manifest"),
    "name": (lambda values: values["checkpoints"][1].update(name=7), "damaged manifest"),
    "unknown field": (lambda values: values.update(colour="red"), "damaged manifest"),
    "missing field": (lambda values: values.pop("dtype"), "damaged manifest"),
    "missing file": (lambda values: values["files"].update({"new.txt": {"bytes": 1, "xxh3": ""}}), "is missing"),
    "size": (lambda values: values["files"]["rows.txt"].update(bytes=9), "8 bytes, not 9"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_to_a_manifest_has_its_own_error(name: str, store: Store) -> None:
    change, message = DAMAGES[name]
    _rewrite(store.folder, change)
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(store.folder)
    assert str(store.folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '"format"', "[" * 100_000, '{"format": 1}', '{"format": NaN}', "\xff"]
)
def test_a_manifest_that_is_none_is_damaged(text: str, store: Store) -> None:
    (store.folder / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError):
        Store.open(store.folder)


def test_a_manifest_changed_by_hand_fails_its_checksum(store: Store) -> None:
    values = json.loads((store.folder / NAME).read_text())
    values["checkpoints"][0]["weight"] *= 10
    (store.folder / NAME).write_text(json.dumps(values))
    with pytest.raises(StoreError, match="checksum is wrong"):
        Store.open(store.folder)


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), _NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_stands_in_a_manifest_only_our_errors_come_out(tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed manifest"
    if not folder.exists():
        build(folder, plan(6, checkpoints=2))
        (folder / "whole").write_bytes((folder / NAME).read_bytes())
    (folder / NAME).write_bytes((folder / "whole").read_bytes())

    def change(values: dict[str, Any]) -> None:
        place: Any = values
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(_VALUES)

    _rewrite(folder, change)
    with contextlib.suppress(HeadwaterError):
        Store.open(folder).verify()


def _flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_in_any_file_is_found(store: Store, files) -> None:
    """Of the manifest itself: found on opening, or else harmless (white space)."""
    drawn = random.Random(0)
    before = asdict(store.manifest)
    for name, whole in files(store.folder).items():
        path = store.folder / name
        count = 250 if name == NAME else 6
        places = [0, len(whole) - 1, *drawn.sample(range(len(whole)), min(count, len(whole)))]
        for at in places:
            _flip(path, at, drawn.randrange(8))
            try:
                opened = Store.open(store.folder)
                opened.verify()
            except StoreError as error:
                assert str(path) in str(error)
            else:
                assert name == NAME and asdict(opened.manifest) == before
            path.write_bytes(whole)
    Store.open(store.folder).verify()


def test_verify_names_every_damaged_file_at_once(store: Store) -> None:
    names = sorted(store.manifest.files)
    _flip(store.folder / names[0], 3, 0)
    _flip(store.folder / names[2], -1, 0)
    (store.folder / names[3]).unlink()
    with pytest.raises(StoreError) as caught:
        store.verify()
    assert [name in str(caught.value) for name in names[:5]] == [True, False, True, True, False]


def test_a_truncated_and_a_missing_file_are_found_on_opening(store: Store) -> None:
    for name in store.manifest.files:
        path = store.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(StoreError, match=r"truncated.*headwater index"):
            Store.open(store.folder)
        path.unlink()
        with pytest.raises(StoreError, match=r"missing.*headwater index"):
            Store.open(store.folder)
        path.write_bytes(whole)


def test_segments_that_changed_places_are_found_by_verify(store: Store) -> None:
    first, second = (
        store.manifest.segment_path(checkpoint, store.manifest.ranges[0]) for checkpoint in store.manifest.checkpoints
    )
    one, two = ((store.folder / name).read_bytes() for name in (first, second))
    (store.folder / first).write_bytes(two)
    (store.folder / second).write_bytes(one)

    def swap(values: dict[str, Any]) -> None:
        values["files"][first], values["files"][second] = values["files"][second], values["files"][first]

    _rewrite(store.folder, swap)
    with pytest.raises(StoreError, match="something else than the manifest says"):
        Store.open(store.folder).verify()
