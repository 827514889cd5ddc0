"""A tiny run made by the command line itself, and a way to call commands as a user does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import builders
from headwater.cli.app import app

TRAIN = ("--model", "textcnn", "--epochs", "2", "--max-length", "16", "--vocabulary", "300")


class Called:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def json(self) -> Any:
        """stdout, which must be JSON and nothing else."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one line on stderr that says what is wrong; nothing may be on stdout, and no traceback anywhere."""
        assert self.code in (1, 2), self.stderr
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        lines = self.stderr.splitlines()
        assert lines and lines[-1].startswith("Error: "), self.stderr
        assert len([line for line in lines if line.startswith("Error: ")]) == 1
        return lines[-1].removeprefix("Error: ")


def headwater(*arguments: object) -> Called:
    """Call a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="headwater")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Called(result.exit_code, result.stdout, result.stderr)


def headwater_process(*arguments: object, **environment: str) -> Called:
    """Call a command in a process of its own."""
    command = [sys.executable, "-m", "headwater", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)
    return Called(done.returncode, done.stdout, done.stderr)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def everything_in(folder: Path) -> dict[str, int]:
    """Every file under a folder, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, test.jsonl, a run trained on the first, and its index. Read it only."""
    folder = tmp_path_factory.mktemp("made")
    rows = builders.rows(90)
    write_rows(folder / "train.jsonl", rows[:60])
    write_rows(folder / "test.jsonl", rows[60:])
    called = headwater("train", "--data", folder / "train.jsonl", *TRAIN, "--out", folder / "run")
    assert called.code == 0, called.stderr
    called = headwater("index", folder / "run")
    assert called.code == 0, called.stderr
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copy the run, with its index, to where a test may damage it."""

    def copy() -> Path:
        return Path(shutil.copytree(made / "run", tmp_path / "run"))

    return copy
