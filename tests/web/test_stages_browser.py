"""What is slow says what it is at: a page at once, a question beside its old answer; and failures stay readable."""

import re
from collections.abc import Callable
from typing import Any

import pytest

import headwater as hw
from headwater.progress import stages_to
from headwater.web.state import Workbench
from web.conftest import busy

ASKED = "/why?text=the+heron+loves+warm+bread&k=5"


def test_a_page_that_must_wait_shows_its_place_in_the_line_and_comes_by_itself(
    visit: Callable[..., Any], address: str, bench: Workbench
) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs")
    with busy(bench) as gate:
        page.goto(address + "/corpus?sort=row")
        expect(page.locator("h1")).to_have_text("Corpus")
        expect(page.locator(".stage .told")).to_have_text("Waiting: 1 question is before this one")
        expect(page.locator(".elapsed")).to_have_text(re.compile(r"^[1-9]\d* s$"))
        gate.set()
        expect(page.locator("table.rows tbody tr")).to_have_count(50)
        assert page.url.endswith("/corpus?sort=row")


@pytest.mark.parametrize("path", ["/corpus/7#mend", "/why?text=the+heron+avoids+rain#q1w0"])
def test_an_address_with_a_part_of_the_page_is_waited_for_too(
    visit: Callable[..., Any], address: str, bench: Workbench, path: str
) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs")
    with busy(bench) as gate:
        page.goto(address + path)
        expect(page.locator(".waiting")).to_be_visible()
        gate.set()
        shown = page.get_by_label("text", exact=True) if "mend" in path else page.locator("#q1 .pinned")
        expect(shown).to_be_visible()
        assert page.url == address + path


def test_a_page_that_failed_is_tried_again_where_it_was_asked(
    visit: Callable[..., Any], address: str, bench: Workbench
) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs")
    with busy(bench) as gate:
        page.route("**/api/work/*", lambda route: route.fulfill(status=500, json={"error": "The server fell over."}))
        page.goto(address + "/corpus/8#mend")
        expect(page.locator(".failure")).to_have_text("The server fell over.")
        gate.set()
        page.unroute("**/api/work/*")
        page.locator(".again a").click()
        expect(page.get_by_label("text", exact=True)).to_be_visible()
        assert page.url == address + "/corpus/8#mend"


def test_a_page_that_fails_without_scripts_says_so_and_is_not_begun_again(
    visit: Callable[..., Any], address: str, bench: Workbench
) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs", java_script_enabled=False)
    with busy(bench) as gate:
        page.goto(address + "/why?text=quiet+rain&method=logra")
        expect(page.locator(".waiting h1")).to_have_text("Why?")
        gate.set()
        expect(page.locator("body")).to_contain_text("headwater index", timeout=15_000)


def test_a_page_without_scripts_comes_back_too(visit: Callable[..., Any], address: str, bench: Workbench) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs", java_script_enabled=False)
    bench._kept.clear()
    with busy(bench) as gate:
        page.goto(address + "/words")
        expect(page.locator(".waiting h1")).to_have_text("Words")
        gate.set()
        expect(page.locator(".word-list")).to_be_visible(timeout=15_000)


def test_a_page_that_fails_after_waiting_says_why(visit: Callable[..., Any], address: str, bench: Workbench) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs")
    bench._kept.clear()
    with busy(bench) as gate:
        page.goto(address + "/why?text=warm+bread&method=logra")
        expect(page.locator(".stage")).to_be_visible()
        gate.set()
        expect(page.locator(".failure")).to_contain_text("headwater index")
        expect(page.locator(".again a")).to_have_attribute("href", "/why?text=warm+bread&method=logra")
        expect(page.locator(".ghost")).not_to_be_visible()


def test_a_question_dims_the_old_answer_and_names_method_and_stage(visit: Callable[..., Any], bench: Workbench) -> None:
    from playwright.sync_api import expect

    page = visit(ASKED + "&method=tracin-we&method=bm25")
    before = page.locator(".methods").inner_text()
    with busy(bench) as gate:
        page.locator(".choose select[name=k]").select_option("20")
        working = page.locator(".working").first
        expect(working).to_have_text(re.compile(r"^1 of 2: tracin-we: Waiting: 1 question is before this one · \d+ s$"))
        assert page.get_attribute("main", "aria-busy") == "true"
        assert float(page.locator(".answers").evaluate("(each) => getComputedStyle(each).opacity")) < 0.6
        assert page.locator(".methods").inner_text() == before
        gate.set()
        page.wait_for_url("**k=20**")
        expect(page.locator(".answers")).to_be_visible()


def test_the_stage_of_an_answer_is_what_the_floors_below_are_at(bench: Workbench) -> None:
    seen: list[str] = []
    index = hw.Index.open(bench.index.folder, run=bench.index.run)
    with stages_to(lambda found: seen.append(found.title)):
        index.query(["the heron loves warm bread"], show=False)
    first, last = (checkpoint.name for checkpoint in index.run.checkpoints)
    assert [title for title in dict.fromkeys(seen) if not title.startswith("taking")] == [
        f"loading the model of {last}",
        "asking the model what it says of the text",
        f"loading the model of {first}",
        f"passing the text through {first}",
        f"passing the text through {last}",
        "scoring all 60 rows by tracin-we",
    ]
    assert seen[-1].endswith("rows apart into words")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_waiting_page_fits_and_axe_finds_nothing(
    visit: Callable[..., Any], address: str, bench: Workbench, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit("/jobs", width, color_scheme=scheme)
    bench._kept.clear()
    with busy(bench):
        page.goto(address + "/why?text=warm+bread")
        page.wait_for_selector(".stage")
        found = Axe().run(page).response
        assert len(found["passes"]) > 10
        assert [(each["id"], each["nodes"][0]["target"]) for each in found["violations"]] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
