"""A build killed at any moment leaves whole files or nothing, and building again gives the same bytes.

Real processes, SIGKILL. They are forked by one helper process that has imported everything and done nothing, so that a
build costs its own time only.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.errors import StoreError
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.store.segment import open_segment

RANGE_ROWS = 80
KILLS = 6

_HELPER = """
import os, signal, sys, traceback
from pathlib import Path
import headwater as hw
import headwater.attribution.build
from headwater.attribution.index import Index

headwater.attribution.build.RANGE_ROWS = {rows}

def die_at_rename(last):
    rename, done = Path.replace, []
    def replace(path, target):
        done.append(target)
        if len(done) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)
    Path.replace = replace

print("ready", flush=True)
for line in sys.stdin:
    run, out, last = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        try:
            die_at_rename(int(last))
            Index.build(hw.Run.open(run), out)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Builder:
    """Starts builds of a run in processes of their own."""

    def __init__(self, run: Path) -> None:
        self.run = run
        command = [sys.executable, "-c", _HELPER.format(rows=RANGE_ROWS)]
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        self.helper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.helper.stdout is not None
        return self.helper.stdout.readline().strip()

    def start(self, out: Path, *, die_at_rename: int = 0) -> int:
        """Start a build and return the number of its process."""
        assert self.helper.stdin is not None
        print(self.run, out, die_at_rename, sep="\t", file=self.helper.stdin, flush=True)
        return int(self._line())

    def ended(self) -> int:
        """Wait for the build; its exit code, or minus the signal that ended it."""
        return int(self._line())


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Iterator[Builder]:
    """A run of 720 rows in nine ranges at two checkpoints."""
    names = {"label2id": builders.LABEL2ID, "id2label": {v: k for k, v in builders.LABEL2ID.items()}}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(
            TextCNN(TextCNNConfig(vocab_size=len(tokenizer), hidden_size=8, channels=4, max_length=32, **names))
        )
    run = make_run(tmp_path_factory.mktemp("crash"), models, tokenizer, builders.rows(240) * 3)
    made = Builder(run.folder)
    yield made
    made.helper.stdin.close()
    made.helper.wait(timeout=30)


def _bytes(folder: Path) -> dict[str, bytes]:
    """All of an index but the lock, and where its run lies, which is a path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "source.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(builder: Builder) -> tuple[dict[str, bytes], float]:
    """The bytes of a build that nobody killed, and how long it took."""
    out = builder.run.parent / "whole"
    started = time.monotonic()
    builder.start(out)
    assert builder.ended() == 0
    took = time.monotonic() - started
    files = _bytes(out)
    assert len([name for name in files if name.startswith("segments/")]) == 18
    return files, took


def _check_half_built(out: Path, files: dict[str, bytes]) -> None:
    """Whatever has its name is whole; without a manifest the index says that it is unfinished."""
    for path in out.rglob("*.safetensors"):
        open_segment(path)
        assert path.read_bytes() == files[str(path.relative_to(out))]
    if not (out / "manifest.json").exists():
        with pytest.raises(StoreError, match=r"unfinished|no index here"):
            hw.Index.open(out)


def test_a_build_killed_at_random_moments_resumes_to_the_same_bytes(
    builder: Builder, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    files, patience = whole
    drawn = random.Random(0)
    kills = middle = finished = 0
    while kills < KILLS or not middle or not finished:
        out = tmp_path / f"index{finished}"
        process = builder.start(out)
        if kills < KILLS or not middle:
            time.sleep(patience * drawn.uniform(0.02, 0.8))
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(process, signal.SIGKILL)
        code = builder.ended()
        _check_half_built(out, files)
        segments = len(list(out.rglob("*.safetensors")))
        if code == 0:
            assert _bytes(out) == files
            finished += 1
            patience *= 0.8  # whatever else the machine does, come early enough,
        else:
            assert code == -signal.SIGKILL
            kills += 1
            middle += 0 < segments < 18
            patience *= 1.3 if segments == 0 else 1  # and not too early


# Renames: the table of examples, 18 segments, the manifest, where the run lies.
@pytest.mark.parametrize("renames", [1, 2, 10, 19, 20, 21])
def test_a_build_killed_before_any_rename_leaves_nothing_half_and_nothing_behind(
    renames: int, builder: Builder, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    files, _ = whole
    out = tmp_path / "index"
    builder.start(out, die_at_rename=renames)
    assert builder.ended() == -signal.SIGKILL
    assert len(list(out.rglob("*.part"))) == 1
    _check_half_built(out, files)
    builder.start(out)
    assert builder.ended() == 0
    assert _bytes(out) == files
    assert not list(out.rglob("*.part"))
    hw.Index.open(out).verify()


def test_an_index_that_was_resumed_answers_as_the_other(
    builder: Builder, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    out = tmp_path / "index"
    builder.start(out, die_at_rename=7)
    assert builder.ended() == -signal.SIGKILL
    builder.start(out)
    assert builder.ended() == 0
    asked = (["the heron admires warm bread", "the river"], ["good", "bad"])
    ours, theirs = (hw.Index.open(folder).scores(*asked) for folder in (out, builder.run.parent / "whole"))
    assert (ours == theirs).all() and ours.any()
