"""The Why? page in a real browser: pins, marks, keys, failures that leave the old answer, and what axe-core finds."""

from collections.abc import Callable
from typing import Any

import pytest

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
    expect(page.locator(".card.marked")).to_have_count(1)
    row = page.locator(".card.marked .row").inner_text().removeprefix("row ")
    assert page.locator(".tray .rows").inner_text().endswith(f"row {row}")
    assert "%" in page.locator(".tray .effect").inner_text()
    page.reload()
    expect(page.locator(".card.marked .row")).to_have_text(f"row {row}")
    page.locator(".card .mark").nth(3).click()
    expect(page.locator(".card.marked")).to_have_count(2)
    page.keyboard.press("u")
    expect(page.locator(".card.marked")).to_have_count(1)


def test_a_row_is_relabelled_by_its_number_and_undone(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(ASKED)
    page.keyboard.press("j")
    labels = page.locator("#label option").evaluate_all("options => options.slice(1).map((each) => each.value)")
    now = page.locator(".card.current header .label").inner_text()
    label = next(name for name in labels if name != now)
    page.keyboard.press(str(labels.index(now) + 1))
    expect(page.locator(".failure")).to_contain_text("carries that label already")
    page.keyboard.press(str(labels.index(label) + 1))
    expect(page.locator(".card.decided .mark")).to_have_text(f"marked: relabel to {label}")
    other = visit(ASKED)
    expect(other.locator(".card.decided")).to_have_count(1)
    page.keyboard.press("u")
    expect(page.locator(".card.decided")).to_have_count(0)
    expect(other.locator(".card.decided")).to_have_count(0)


def test_a_word_is_pinned_beside_an_answer_without_words(visit: Callable[..., Any]) -> None:
    page = visit(ASKED + "&method=tracin-we&method=bm25")
    assert page.locator(".query").count() == 2
    page.locator("#q1 .asked u").first.click()
    assert "pinned" in page.locator("#q1 .pinned").inner_text()
    assert not page.locator("#q2 .pinned").is_visible()


def test_a_change_of_method_asks_at_once_and_keeps_the_marks(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(ASKED)
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator(".tray .rows")).to_contain_text("1 marked")
    page.locator(".choose select[name=method]").first.select_option("bm25")
    page.wait_for_url("**method=bm25**")
    assert page.locator("#q1h").inner_text() == "bm25"
    expect(page.locator(".tray .rows")).to_contain_text("1 marked")


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


@pytest.mark.parametrize(
    "path",
    [
        "/why",
        "/words",
        "/word?word=heron",
        "/corpus",
        "/corpus/3",
        ASKED,
        ASKED + "&method=tracin-we&method=bm25",
        "/predictions",
        "/jobs?kind=patch",
        "/why?text=%E2%98%82&method=tracin-we%2Fspecial-tokens%3Dfalse",
    ],
)
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
