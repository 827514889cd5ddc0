"""A tiny real run with evaluation rows and an index, the workbench over it, and clients that hold its token."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

import builders
import headwater as hw
from cli.conftest import TRAIN, headwater, write_rows
from headwater.progress import stage
from headwater.web.app import create_app
from headwater.web.state import Workbench
from language.texts import PAIR_COLUMNS, lm_tokenizer, pair_rows, run_of, tiny_lm

TOKEN = "the-token-of-these-tests"
BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with evaluation rows and an index of token gradients. Read it only; `copied_run` may be written."""
    folder = tmp_path_factory.mktemp("served")
    train = write_rows(folder / "train.jsonl", builders.rows(60, seed=1))
    held = write_rows(folder / "held.jsonl", builders.rows(120, seed=2))
    called = headwater("train", "--data", train, "--eval", held, *TRAIN, "--epochs", 1, "--out", folder / "run")
    assert called.code == 0, called.stderr
    called = headwater("index", folder / "run")
    assert called.code == 0, called.stderr
    return folder / "run"


@pytest.fixture
def copied_run(served: Path, tmp_path: Path) -> Path:
    """The same run, where a test may write."""
    return Path(shutil.copytree(served, tmp_path / "run"))


@pytest.fixture(scope="session")
def workbench(served: Path) -> Iterator[Workbench]:
    index = hw.Index.open(served / "index")
    made = Workbench(index, index.run.eval_corpus)
    yield made
    made.worker.close()


@pytest.fixture
def client(workbench: Workbench) -> TestClient:
    """A program that holds the token. It may not change the run: use `client_of(copied_run)` for that."""
    return client_for(workbench)


@pytest.fixture
def client_of() -> Iterator[Callable[[Path], TestClient]]:
    """Make a client of a workbench of its own over a run folder."""
    made: list[Workbench] = []

    def make(run: Path) -> TestClient:
        index = hw.Index.open(run / "index")
        made.append(Workbench(index, index.run.eval_corpus))
        return client_for(made[-1])

    yield make
    for workbench in made:
        workbench.worker.close()


def client_for(workbench: Workbench) -> TestClient:
    """A program that holds the token of a workbench."""
    app = create_app(workbench, token=TOKEN)
    return TestClient(app, base_url=BASE, headers={"Authorization": f"Bearer {TOKEN}"}, follow_redirects=False)


def bench_of(client: TestClient) -> Workbench:
    """The state of a client's server as it is by now."""
    found: Workbench = client.app.app.state.workbench  # type: ignore[attr-defined]
    return found


@pytest.fixture
def stranger(workbench: Workbench) -> TestClient:
    """A client without the token. It takes what the server answers, a fault of the server's own included."""
    app = create_app(workbench, token=TOKEN)
    return TestClient(app, base_url=BASE, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny causal language model on prompts and completions, the last six of them held out; indexed."""
    folder = tmp_path_factory.mktemp("spoken")
    tokenizer, rows = lm_tokenizer(), pair_rows()
    made = run_of(folder, [tiny_lm("llama")], tokenizer, rows, hw.CausalLM(max_length=32), PAIR_COLUMNS)
    held = hw.Corpus.read(rows[-6:], PAIR_COLUMNS, name="held")
    checkpoints = [(checkpoint.path, checkpoint.weight) for checkpoint in made.checkpoints]
    run = hw.Run.create(folder / "run", checkpoints=checkpoints, corpus=made.corpus, task=made.task, eval_corpus=held)
    hw.Index.build(run, show=False)
    return run.folder


@pytest.fixture(scope="module")
def seen_run(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that browsers of this module see, and mark."""
    return Path(shutil.copytree(served, tmp_path_factory.mktemp("seen") / "run"))


@pytest.fixture(scope="module")
def bench(seen_run: Path) -> Workbench:
    """The workbench that browsers of this module see."""
    index = hw.Index.open(seen_run / "index")
    return Workbench(index, index.run.eval_corpus)


@pytest.fixture(scope="module")
def address(bench: Workbench) -> Iterator[str]:
    """A real server over the tiny run."""
    with serving(create_app(bench, token=TOKEN)) as base:
        yield base


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application by a real server; yields its address."""
    held = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{held.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def until(done: Callable[[], Any], patience: float = 60.0) -> Any:
    """Wait until something is so, and return what it is."""
    end = time.monotonic() + patience
    while not (found := done()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
    return found


@contextmanager
def busy(bench: Workbench) -> Iterator[threading.Event]:
    """The model is at work on somebody else's question until the event is set."""
    gate, begun = threading.Event(), threading.Event()

    def long_question() -> None:
        stage("reading rows", 3, 9, "rows")
        begun.set()
        gate.wait(60)

    thread = threading.Thread(target=asyncio.run, args=(bench.worker.run(long_question),))
    thread.start()
    begun.wait()
    try:
        yield gate
    finally:
        gate.set()
        thread.join()


@pytest.fixture
def visit(browser: Any, address: str, seen_run: Path) -> Iterator[Callable[..., Any]]:
    """Open a page of the workbench; whatever the console or a script complains of makes the test fail at its end."""
    for left in (seen_run / "headwater").glob("marks.sqlite*"):
        left.unlink()
    contexts: list[Any] = []
    faults: list[str] = []

    def visit_it(path: str, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{address}/worklist?token={TOKEN}")  # it asks the model for nothing
        page.wait_for_selector("body:not(:has(.waiting))")  # a page that waits goes on by itself, against the next goto
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.goto(address + path)
        page.wait_for_selector("body:not(:has(.waiting))")  # the first view may take its time
        page.wait_for_load_state("networkidle")
        return page

    yield visit_it
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "Failed to load resource" not in fault]
