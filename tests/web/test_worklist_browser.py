"""A planted group of bad rows, found and decided on by keyboard alone, in a real browser; two tabs live."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.remedies.plan import read_plan
from web.test_worklist_page import suggest, suggested

GROUP = "good → bad"


@pytest.fixture(scope="module", autouse=True)
def planted(seen_run: Path) -> Path:
    suggest(seen_run, suggested(seen_run, list(range(30, 44))) + suggested(seen_run, list(range(10, 15)), None))
    return seen_run


def test_a_group_is_found_sampled_and_accepted_by_keyboard(visit: Callable[..., Any], seen_run: Path) -> None:
    from playwright.sync_api import expect

    page = visit("/worklist")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/worklist/group**")
    expect(page.locator("h1")).to_have_text(GROUP)
    expect(page.locator(".card")).to_have_count(10)
    page.keyboard.press("A")  # too early: does nothing
    page.keyboard.press("j")
    page.keyboard.press("q")
    expect(page.locator('.card[data-decided="kept"]')).to_have_count(1)
    for done in range(1, 10):
        page.keyboard.press("a")
        expect(page.locator('.card[data-decided="changed"]')).to_have_count(done)
    expect(page.locator(".told")).to_contain_text("10 of 10 sampled rows looked at: 9 wrong indeed")
    expect(page.locator(".accept-group")).to_be_enabled()
    page.keyboard.press("A")
    expect(page.locator(".decided")).to_have_text("14 decided")
    with page.expect_download() as download:
        page.goto(page.url.split("/worklist")[0] + "/worklist")
        page.get_by_text("Export the plan").click()
    plan = read_plan(download.value.path())
    assert sum(repair.action == "delete" for repair in plan.repairs) == 13


def test_a_decision_shows_in_the_other_tab_and_a_stale_one_is_told(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    path = f"/worklist/group?audit=mislabels&group={GROUP}"
    one, two = visit(path), visit(path)
    row = one.locator(".card").first
    two.route("**/api/marks?**", lambda route: route.abort())  # the other tab hears of nothing
    row.locator("[data-act=delete]").click()
    expect(row.locator(".state")).to_have_text("delete")
    two.locator(".card").first.locator("[data-act=keep]").click()
    expect(two.locator(".failure")).to_contain_text("was marked elsewhere meanwhile: delete, accepted")
    expect(two.locator(".card").first.locator(".state")).to_have_text("delete")
    two.locator(".card").first.locator("[data-act=keep]").click()
    expect(row.locator(".state")).to_have_text("kept as it is")
    one.keyboard.press("u")


def test_what_an_audit_suggests_is_on_the_card_of_an_answer(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit("/why?text=the+heron+loves+warm+bread&k=100")
    button = page.locator("button.suggested").first
    expect(button).to_have_text("mislabels: delete")
    button.click()
    expect(page.locator(".tray .rows")).to_contain_text("1 marked")


def test_a_row_is_marked_on_its_own_page(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page, other = visit("/corpus/5"), visit("/corpus/5")
    page.keyboard.press("x")
    expect(page.locator(".marking .state")).to_have_text("marked: delete")
    expect(other.locator(".marking .state")).to_have_text("marked: delete")
    page.keyboard.press("u")
    expect(other.locator(".marking .state")).to_have_text("")


@pytest.mark.parametrize("path", ["/worklist", f"/worklist/group?audit=mislabels&group={GROUP}&rows=all"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_worklist_fits_and_axe_finds_nothing(visit: Callable[..., Any], path: str, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(path, width, color_scheme=scheme)
    found = Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [(each["id"], each["nodes"][0]["target"]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
