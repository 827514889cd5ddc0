"""`headwater serve`: a real process that is asked over the network, and what it says when it cannot begin."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.conftest import headwater


def test_a_server_answers_who_holds_its_token_and_stops_when_told(made: Path) -> None:
    command = [sys.executable, "-m", "headwater", "serve", str(made / "run")]
    command += ["--queries", str(made / "test.jsonl"), "--port", "0", "--no-browser", "--json"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HEADWATER_TOKEN": "sesame"}
    )
    try:
        assert server.stdout is not None
        told = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        assert told["token"] == "sesame" and told["process"] == server.pid
        assert told["url"] == f"http://127.0.0.1:{told['port']}/?token=sesame"
        with httpx.Client(timeout=60, follow_redirects=True) as browser:
            assert browser.get(told["url"].replace("sesame", "guess")).status_code == 401
            page = browser.get(told["url"])
            assert page.status_code == 200 and "Predictions" in page.text and "token" not in str(page.url)
            assert browser.get(page.url.join("/api/predictions")).json()["count"] == 30
            long = browser.get(page.url.join("/why"), params={"text": "warm bread " * 4000})
            assert long.status_code == 200  # an address of more than 40 KB
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    assert server.returncode in (0, 130)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{told['port']}/health")


def test_a_port_in_use_is_an_error_that_says_so(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = headwater("serve", made / "run", "--port", port, "--no-browser").error
    assert f"port {port}" in message and "--port" in message


def test_a_run_that_is_not_there_or_not_indexed_is_an_error(made: Path, tmp_path: Path) -> None:
    assert "no such" in headwater("serve", tmp_path / "nothing", "--no-browser", "--port", 0).error.lower()
    message = headwater("serve", made / "run", "--queries", tmp_path / "no.jsonl", "--no-browser", "--port", 0).error
    assert "no.jsonl" in message
