"""Lists that are read again by scripts, in a real browser: what could not be read once is read the next time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from headwater.engines.jobs import Jobs
from headwater.remedies.decisions import decide, marks_of
from web.conftest import until
from web.test_worklist_page import suggest, suggested


@pytest.fixture
def jobs(seen_run: Path) -> Iterator[Jobs]:
    """The jobs of the run; they end with the test."""
    made = Jobs(seen_run / "headwater" / "jobs")
    yield made
    for job in made.all():
        made.cancel(job.number)
    until(lambda: all(job.over for job in made.all()))


def once_refused(page: Any, path: str) -> list[str]:
    """Let the next read of a page by its script fail; returns what was refused."""
    refused: list[str] = []

    def answer(route: Any) -> None:
        if route.request.resource_type != "fetch" or refused:
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(status=503, json={"error": "Too many questions at once."})

    page.route(path, answer)
    return refused


def test_a_job_that_was_started_is_shown_though_the_first_look_failed_and_is_started_once(
    visit: Callable[..., Any], jobs: Jobs
) -> None:
    from playwright.sync_api import expect

    page = visit("/jobs?kind=audit")
    refused = once_refused(page, "**/jobs?kind=audit")
    page.locator("[name=what]").select_option("duplicates")
    page.get_by_role("button", name="What will it cost?").click()
    page.get_by_role("button", name="Start").dblclick()
    expect(page.locator(".job")).to_have_count(1)
    assert len(refused) == 1 and len(jobs.all()) == 1


def test_what_another_tab_decided_shows_on_the_worklist_though_the_first_look_failed(
    visit: Callable[..., Any], seen_run: Path
) -> None:
    from playwright.sync_api import expect

    suggest(seen_run, suggested(seen_run, list(range(30, 44))))
    page = visit("/worklist")
    refused = once_refused(page, "**/worklist")
    run = hw.Run.open(seen_run)
    marks_of(run).write(decide(run, 31, "delete", status="accepted"), 0)
    expect(page.locator(".accepted")).to_have_text("Accepted: 1 delete.", timeout=15_000)
    assert len(refused) == 1
