"""An index in S3: against a real S3 server, moto's, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import headwater as hw
from engines.conftest import files_of
from headwater.errors import StoreError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::headwater.HeadwaterWarning")]

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: make engines")
pytest.importorskip("moto.server", reason="moto[server] is not installed: make engines")

URL = "s3://indexes/first"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HEADWATER_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("indexes")
    yield files
    files.rm("indexes", recursive=True)


def in_bucket(files: s3fs.S3FileSystem) -> dict[str, bytes]:
    files.invalidate_cache()
    found = {path.removeprefix("indexes/first/"): files.cat_file(path) for path in files.find("indexes/first")}
    found.pop("source.json", None)
    return found


def test_s3_holds_the_bytes_of_a_folder_and_another_machine_reads_them(
    engine_run: hw.Run,
    whole: dict[str, bytes],
    bucket: s3fs.S3FileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = hw.Index.build(engine_run, URL)
    assert in_bucket(bucket) == whole
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    opened = hw.Index.open(URL)
    opened.verify()
    assert {name: data for name, data in files_of(opened.folder).items() if name != "source.json"} == whole
    assert (opened.scores("warm bread") == built.scores("warm bread")).all()
    segment = next(name for name in whole if name.endswith(".safetensors"))
    bucket.pipe_file(f"indexes/first/{segment}", whole[segment][:-1] + b"?")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "third"))
    with pytest.raises(StoreError, match="damaged"):
        hw.Index.open(URL)


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(engine_run: hw.Run, bucket: s3fs.S3FileSystem) -> None:
    with pytest.raises(StoreError, match=r"s3://nothing-here/index"):
        hw.Index.build(engine_run, "s3://nothing-here/index")


def test_a_cluster_writes_to_s3_and_the_driver_only_the_manifest(
    engine_run: hw.Run, whole: dict[str, bytes], bucket: s3fs.S3FileSystem
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: make engines")
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    try:
        hw.Index.build(engine_run, URL, engine="ray")
        assert in_bucket(bucket) == whole
        gone = next(name for name in whole if name.endswith(".safetensors"))
        bucket.rm_file(f"indexes/first/{gone}")
        hw.Index.build(engine_run, URL, engine="ray")
        assert in_bucket(bucket) == whole
    finally:
        ray.shutdown()
