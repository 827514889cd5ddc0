"""The Why? page in a real browser: pins, marks, keys, failures that leave the old answer, and what axe-core finds."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import headwater as hw
from headwater.web.app import create_app
from headwater.web.state import Workbench
from web.conftest import TOKEN

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
SAFE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _cannot("playwright is not installed")
    found = next((path for path in (*BROWSERS, shutil.which("chromium")) if path and Path(path).exists()), None)
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=found, args=SAFE)
        except Error as error:
            _cannot(f"no Chromium to start ({str(error).splitlines()[0]})")
        yield opened
        opened.close()


def _cannot(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: install it, CI must not skip this")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def address(served: Path) -> Iterator[str]:
    """A real server over the tiny run."""
    index = hw.Index.open(served / "index")
    held = socket.create_server(("127.0.0.1", 0))
    app = create_app(Workbench(index, index.run.eval_corpus), token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{held.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open a page of the workbench; whatever the console or a script complains of makes the test fail at its end."""
    contexts: list[Any] = []
    faults: list[str] = []

    def visit_it(path: str, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{address}/predictions?token={TOKEN}")
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        return page

    yield visit_it
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "Failed to load resource" not in fault]


ASKED = "/why?text=the+heron+loves+warm+bread&k=5"


def test_a_word_is_pinned_by_keyboard_and_the_address_keeps_it(visit: Callable[..., Any]) -> None:
    page = visit(ASKED)
    page.locator("#q1 .asked u").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#q1 .pinned").inner_text().count("pinned") == 1
    assert page.evaluate("location.hash").startswith("#q1w")
    again = visit(page.url[page.url.index("/why") :])
    assert again.locator("#q1 .pinned").inner_text() == page.locator("#q1 .pinned").inner_text()
    again.keyboard.press("Escape")
    assert not again.locator("#q1 .pinned").is_visible()


def test_a_row_is_marked_by_keyboard_and_told_what_it_holds(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(ASKED)
    assert not page.locator(".tray").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator(".tray .effect")).to_contain_text("to first order")
    assert page.locator(".card.marked").count() == 1
    row = page.locator(".card.marked .row").inner_text().removeprefix("row ")
    assert f"marked={row}" in page.url and page.locator(".tray .rows").inner_text().endswith(f"row {row}")
    assert "%" in page.locator(".tray .effect").inner_text()
    page.reload()
    page.wait_for_load_state("networkidle")
    assert page.locator(".card.marked .row").inner_text() == f"row {row}"
    page.locator(".card .mark").nth(3).click()
    assert page.locator(".card.marked").count() == 2
    page.keyboard.press("u")
    assert page.locator(".card.marked").count() == 1


def test_a_word_is_pinned_beside_an_answer_without_words(visit: Callable[..., Any]) -> None:
    page = visit(ASKED + "&method=tracin-we&method=bm25")
    assert page.locator(".query").count() == 2
    page.locator("#q1 .asked u").first.click()
    assert "pinned" in page.locator("#q1 .pinned").inner_text()
    assert not page.locator("#q2 .pinned").is_visible()


def test_a_change_of_method_asks_at_once_and_keeps_the_marks(visit: Callable[..., Any]) -> None:
    page = visit(ASKED + "&marked=3")
    page.locator(".choose select[name=method]").first.select_option("bm25")
    page.wait_for_url("**method=bm25**")
    assert "marked=3" in page.url and page.locator("#q1h").inner_text() == "bm25"


def test_a_failure_is_told_and_the_old_answer_stays(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(ASKED)
    before = page.locator(".methods").inner_text()
    page.route("**/api/why?*", lambda route: route.fulfill(status=503, json={"error": "Too many questions at once."}))
    page.locator(".choose select[name=k]").select_option("20")
    page.wait_for_selector(".failure:not([hidden])")
    assert "Too many questions" in page.locator(".failure").inner_text()
    assert page.locator(".methods").inner_text() == before and page.get_attribute("main", "aria-busy") is None
    page.unroute("**/api/why?*")
    page.route("**/api/why?*", lambda route: route.abort())
    page.locator(".choose button").click()
    expect(page.locator(".failure")).to_contain_text("does not answer")


@pytest.mark.parametrize("path", ["/why", ASKED + "&marked=3", ASKED + "&method=tracin-we&method=bm25", "/predictions"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_and_axe_finds_nothing(visit: Callable[..., Any], path: str, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(path, width, color_scheme=scheme)
    found = Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [(each["id"], each["nodes"][0]["target"]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_reads_without_scripts(visit: Callable[..., Any]) -> None:
    page = visit(ASKED, java_script_enabled=False)
    assert page.locator(".card").count() == 10
    page.locator(".choose select[name=method]").first.select_option("bm25")
    page.locator(".choose button").click()
    assert page.locator("#q1h").inner_text() == "bm25"
