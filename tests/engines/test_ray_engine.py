"""The engine ray on a real cluster of three nodes: the bytes of a build in this process, whoever dies meanwhile."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from engines.conftest import files_of
from headwater.errors import HeadwaterError, StoreError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::headwater.HeadwaterWarning")]

pytest.importorskip("ray", reason="Ray is not installed: make engines")
psutil = pytest.importorskip("psutil")

_NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**_NODE)
    yield made
    made.shutdown()


def build(run: hw.Run, out: str | Path, cluster: Any) -> hw.Index:
    return hw.Index.build(run, out, engine="ray", address=cluster.address)


def at_work() -> list[Any]:
    """The worker processes that are in the middle of a task."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::_finish"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def in_mid_build(out: Path, act: Callable[[], bool]) -> tuple[threading.Thread, list[str]]:
    """Call `act` until it says that it did something, once a segment is there; note what was whole at that moment."""
    whole: list[str] = []

    def watch() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            there = [str(path) for path in out.rglob("*.safetensors")]
            if there and act():
                whole.extend(there)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, whole


def test_a_cluster_writes_the_bytes_of_one_process(
    engine_run: hw.Run, whole: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    with pytest.warns(hw.HeadwaterWarning, match="1 rows are longer"):
        build(engine_run, tmp_path / "ray", cluster)
    assert files_of(tmp_path / "ray") == whole
    (tmp_path / "ray" / "manifest.json").unlink()
    segment = sorted((tmp_path / "ray").rglob("*.safetensors"))[0]
    segment.unlink()
    build(engine_run, tmp_path / "ray", cluster)
    assert files_of(tmp_path / "ray") == whole


def test_a_worker_that_is_killed_is_replaced(
    engine_run: hw.Run, whole: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    def kill() -> bool:
        for process in at_work()[:1]:
            process.kill()
            return True
        return False

    killer, at_that_moment = in_mid_build(tmp_path / "ray", kill)
    build(engine_run, tmp_path / "ray", cluster)
    killer.join()
    assert 0 < len(at_that_moment) < 18
    assert files_of(tmp_path / "ray") == whole


def test_a_node_that_goes_is_done_without(
    engine_run: hw.Run, whole: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    node = cluster.add_node(**_NODE)

    def remove() -> bool:
        cluster.remove_node(node, allow_graceful=False)
        return True

    remover, at_that_moment = in_mid_build(tmp_path / "ray", remove)
    build(engine_run, tmp_path / "ray", cluster)
    remover.join()
    assert 0 < len(at_that_moment) < 18
    assert files_of(tmp_path / "ray") == whole


def test_a_workers_error_comes_back_as_it_is_and_finished_files_stay(
    engine_run: hw.Run, whole: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    build(engine_run, tmp_path / "ray", cluster)
    segment = sorted((tmp_path / "ray").rglob("*.safetensors"))[5]
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{segment.name}.*truncated"):
        build(engine_run, tmp_path / "ray", cluster)
    segment.unlink()
    build(engine_run, tmp_path / "ray", cluster)
    assert files_of(tmp_path / "ray") == whole


def test_a_node_of_another_kind_is_refused(
    engine_run: hw.Run, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.attribution.build.built_with", lambda device: {"torch": "9.9", "device": "abacus"})
    with pytest.raises(StoreError, match="nodes of one kind"):
        build(engine_run, tmp_path / "ray", cluster)
    assert not list((tmp_path / "ray").rglob("*.safetensors"))


def test_a_cluster_that_is_not_there_is_an_error_of_one_line(
    engine_run: hw.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HeadwaterError, match="cannot join a Ray cluster"):
        hw.Index.build(engine_run, tmp_path / "ray", engine="ray", address="127.0.0.1:1")
