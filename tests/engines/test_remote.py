"""An index in a bucket: what is there is whole, what is fetched is checked, and a manifest never comes first."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

import headwater as hw
from cli.conftest import headwater
from engines.conftest import files_of
from headwater.errors import StoreError, UsageError
from headwater.store.remote import Remote, place_of

URL = "memory://bucket/index"
TEXT = "the heron loves warm bread ."

pytestmark = pytest.mark.filterwarnings("ignore::headwater.HeadwaterWarning")


@pytest.fixture(autouse=True)
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty bucket, and a machine that has fetched nothing."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go on with an empty mirror."""

    def go_on() -> None:
        monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))

    return go_on


def remote_files(files: fsspec.AbstractFileSystem) -> dict[str, bytes]:
    found = {path.removeprefix("/bucket/index/"): files.cat_file(path) for path in files.find("/bucket/index")}
    found.pop("source.json", None)
    return found


def best(index: hw.Index) -> list[tuple[int, float]]:
    return [(part.example.row, part.score) for part in index.query(TEXT, k=5)[0].proponents]


def test_a_bucket_holds_the_bytes_of_a_folder_and_answers_alike(
    engine_run: hw.Run, whole: dict[str, bytes], bucket: fsspec.AbstractFileSystem, another_machine: Callable[[], None]
) -> None:
    built = hw.Index.build(engine_run, URL)
    assert remote_files(bucket) == whole
    another_machine()
    opened = hw.Index.open(URL)
    assert opened.folder != built.folder
    assert best(opened) == best(built)
    opened.verify()


def test_a_file_url_is_a_folder(engine_run: hw.Run, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert hw.Index.build(engine_run, f"file://{tmp_path}/plain").folder == tmp_path / "plain"
    assert files_of(tmp_path / "plain") == whole


def test_a_path_that_lost_a_slash_is_the_same_url() -> None:
    assert place_of(Path(URL))[0] == place_of(URL)[0] == Remote(URL + "/").folder
    assert place_of("runs/first")[1] is None


@pytest.mark.parametrize("sent", [0, 5, 19])
def test_a_build_that_is_cut_off_leaves_no_manifest_and_another_machine_goes_on(
    sent: int,
    engine_run: hw.Run,
    whole: dict[str, bytes],
    bucket: fsspec.AbstractFileSystem,
    another_machine: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line is cut after so many files, and not restored for this machine."""
    put, count = bucket.put_file, 0

    def cut_off(*args: object, **kwargs: object) -> None:
        nonlocal count
        if count == sent:
            raise ConnectionResetError("the line was cut")
        count += 1
        put(*args, **kwargs)

    monkeypatch.setattr(type(bucket), "put_file", lambda self, *args, **kwargs: cut_off(*args, **kwargs))
    with pytest.raises(StoreError, match="the line was cut"):
        hw.Index.build(engine_run, URL)
    there = remote_files(bucket)
    assert len(there) == sent and "manifest.json" not in there
    assert all(whole[name] == data for name, data in there.items())
    monkeypatch.undo()
    monkeypatch.setattr("headwater.attribution.build.RANGE_ROWS", 80)
    another_machine()
    if sent:
        with pytest.raises(StoreError, match=r"unfinished|no index here"):
            hw.Index.open(URL)
    hw.Index.build(engine_run, URL)
    assert remote_files(bucket) == whole


def test_damage_in_the_bucket_is_found_when_it_is_fetched(
    engine_run: hw.Run, bucket: fsspec.AbstractFileSystem, another_machine: Callable[[], None]
) -> None:
    hw.Index.build(engine_run, URL)
    name = next(path for path in bucket.find("/bucket/index") if path.endswith(".safetensors"))
    data = bytearray(bucket.cat_file(name))
    data[-1] ^= 1
    bucket.pipe_file(name, bytes(data))
    hw.Index.open(URL)  # this machine has the file as it was
    another_machine()
    with pytest.raises(StoreError, match=r"segments/.*damaged"):
        hw.Index.open(URL)


def test_only_what_changed_is_fetched_again(
    engine_run: hw.Run, bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = hw.Index.build(engine_run, URL)
    segment = sorted(index.folder.rglob("*.safetensors"))[3]
    segment.write_bytes(segment.read_bytes()[:-1])
    fetch, fetched = Remote.fetch, []
    monkeypatch.setattr(Remote, "fetch", lambda self, name, *rest: (fetched.append(name), fetch(self, name, *rest)))
    hw.Index.open(URL).verify()
    assert [name for name in fetched if name.endswith(".safetensors")] == [str(segment.relative_to(index.folder))]


def test_a_manifest_cannot_lead_out_of_the_mirror(engine_run: hw.Run, bucket: fsspec.AbstractFileSystem) -> None:
    hw.Index.build(engine_run, URL)
    manifest = json.loads(bucket.cat_file("/bucket/index/manifest.json"))
    manifest["files"]["../../evil"] = {"bytes": 1, "xxh3": "0"}
    bucket.pipe_file("/bucket/index/manifest.json", json.dumps(manifest).encode())
    bucket.pipe_file("/bucket/evil", b"x")
    with pytest.raises(StoreError, match="damaged"):
        hw.Index.open(URL)
    assert not list(Remote(URL).folder.parent.parent.rglob("evil"))


def test_layer_gradients_go_to_a_bucket_too(
    engine_run: hw.Run, bucket: fsspec.AbstractFileSystem, another_machine: Callable[[], None]
) -> None:
    hw.Index.build(engine_run, URL)
    hw.Index.build(engine_run, URL, method="representer")
    another_machine()
    index = hw.Index.open(URL)
    assert len(index.query(TEXT, k=3, method="representer")[0].proponents) == 3
    assert len(best(index)) == 5


def test_what_cannot_be_reached_is_an_error_of_one_line(engine_run: hw.Run) -> None:
    with pytest.raises(StoreError, match="no index here"):
        hw.Index.open("memory://bucket/nothing")
    with pytest.raises(UsageError, match="nosuch"):
        hw.Index.open("nosuch://bucket/index")
    with pytest.raises(StoreError, match=r"ftp://127\.0\.0\.1:9/index: .*refused"):
        hw.Index.open("ftp://127.0.0.1:9/index")
    asked = headwater("query", "memory://bucket/nothing", "--text", TEXT)
    assert asked.code == 1 and "memory://bucket/nothing: no index here" in asked.stderr


def test_an_index_that_was_deleted_is_not_answered_from_its_mirror(
    engine_run: hw.Run, bucket: fsspec.AbstractFileSystem
) -> None:
    hw.Index.build(engine_run, URL)
    bucket.rm("/bucket", recursive=True)
    with pytest.raises(StoreError, match="no index here"):
        hw.Index.open(URL)


def test_two_may_open_the_same_url_at_a_time(engine_run: hw.Run, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Over files on a disk: a file in memory has one cursor for all who read it."""
    remote = Remote(f"file://{tmp_path}/whole")
    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda _: remote.pull(), range(200)))
    assert files_of(remote.folder) == whole


def test_engines_and_addresses_that_make_no_sense_are_refused(engine_run: hw.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="engine must be local or ray"):
        hw.Index.build(engine_run, tmp_path / "index", engine="spark")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="address"):
        hw.Index.build(engine_run, tmp_path / "index", address="auto")
    with pytest.raises(UsageError, match="token gradients alone"):
        hw.Index.build(engine_run, tmp_path / "index", engine="ray", method="representer")
    assert not (tmp_path / "index").exists()


def test_the_command_line_builds_into_a_bucket_and_asks_there(
    engine_run: hw.Run, whole: dict[str, bytes], bucket: fsspec.AbstractFileSystem, another_machine: Callable[[], None]
) -> None:
    made = headwater("index", engine_run.folder, "--out", URL, "--json")
    assert made.code == 0 and made.json["index"] == URL, made.stderr
    assert remote_files(bucket) == whole
    another_machine()
    asked = headwater("query", URL, "--text", TEXT, "-k", 5, "--json")
    found = [part["example"] for part in asked.json["queries"][0]["proponents"]]
    assert found == [row for row, _ in best(hw.Index.open(URL))]
    assert headwater("verify", URL).code == 0
    assert (
        "token gradients alone" in headwater("index", engine_run.folder, "--engine", "ray", "--method", "tracin").error
    )
