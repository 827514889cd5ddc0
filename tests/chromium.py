"""A real Chromium for tests: the machine's, else playwright's own. CI must not skip what needs one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
SAFE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def opened() -> Iterator[Any]:
    """Yield a browser that is closed afterwards."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _cannot("playwright is not installed")
    found = next((path for path in (*BROWSERS, shutil.which("chromium")) if path and Path(path).exists()), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=SAFE)
        except Error as error:
            _cannot(f"no Chromium to start ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


def _cannot(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: install it, CI must not skip this")
    pytest.skip(reason)
