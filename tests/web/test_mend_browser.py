"""A language model's completions mended in a real browser: typed, marked, retrained by a job, proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from headwater.engines.jobs import Jobs
from headwater.remedies.decisions import decide, marks_of
from language.planted import ENDS, SPOILED, train_planted

PATIENCE = 240_000  # milliseconds that a retraining may take
LAST = SPOILED[-1]


@pytest.fixture(scope="module")
def seen_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny Llama, four ninths of whose completions are the wrong ones; indexed."""
    run, _ = train_planted("llama", tmp_path_factory.mktemp("spoken"))
    hw.Index.build(run, show=False)
    yield run.folder
    jobs = Jobs(run.folder / "headwater" / "jobs")
    for job in jobs.all():
        jobs.cancel(job.number)


def other(end: str) -> str:
    return next(each for each in ENDS.values() if each != end)


def test_a_completion_is_mended_marked_retrained_and_proved(visit: Callable[..., Any], seen_run: Path) -> None:
    from playwright.sync_api import expect

    run = hw.Run.open(seen_run)
    was = str(run.corpus[LAST].label)
    for row in SPOILED[:-1]:  # as somebody marked them before
        mended = decide(run, row, "relabel", label=other(str(run.corpus[row].label)), status="accepted")
        marks_of(run).write(mended, 0)

    page = visit(f"/corpus/{LAST}")
    page.keyboard.press("m")
    field = page.get_by_label("completion")
    expect(field).to_be_focused()
    assert field.input_value() == was
    field.fill("   ")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".failure")).to_contain_text("blank")
    field.fill(other(was))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".marking .state")).to_have_text("marked: mend the completion")
    expect(page.locator(".failure")).to_be_hidden()
    expect(page.locator(".changed del")).to_have_text(was)
    expect(page.locator(".changed ins")).to_have_text(other(was))
    page.reload()
    expect(page.locator(".changed ins")).to_have_text(other(was))
    page.keyboard.press("m")
    assert field.input_value() == other(was)

    again = visit(f"/corpus/{LAST}")  # another tab, and then a write that had not seen it
    again.get_by_role("button", name="Delete").click()
    expect(again.locator(".marking .state")).to_have_text("marked: delete")
    again.get_by_role("button", name="Undo").click()
    expect(again.locator(".marking .state")).to_have_text("")
    again.keyboard.press("m")
    again.get_by_label("completion").fill(other(was))
    again.get_by_role("button", name="Save as a mark").click()
    expect(again.locator(".changed ins")).to_have_text(other(was))

    base = page.url.split("/corpus")[0]
    page.goto(base + "/worklist/group?audit=by+hand&rows=all")
    expect(page.locator(".card ins")).to_have_count(len(SPOILED))
    page.goto(base + "/jobs?kind=fix")
    expect(page.locator(".new")).to_contain_text(f"{len(SPOILED)} rows relabelled")
    page.locator("[name=seeds]").fill("3")
    page.get_by_role("button", name="What will it cost?").click()
    expect(page.locator(".cost")).to_contain_text("10 trainings of about", timeout=PATIENCE)  # 3 x 3 arms, and one
    page.get_by_role("button", name="Start").click()
    expect(page.locator('.job[data-state="done"]')).to_have_count(1, timeout=PATIENCE)
    page.get_by_role("link", name="See the proof").click()
    shown = page.locator(".outcome")
    expect(shown).to_contain_text("The repair is better than the corpus as it was")
    expect(shown).to_contain_text("nats a target token")
    expect(shown).to_contain_text("improved")
    expect(page.locator(".came-true circle")).to_have_count(54)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", [f"/corpus/{LAST}#mend", "/proof/1", "/worklist/group?audit=by+hand&rows=all"])
def test_the_pages_fit_and_axe_finds_nothing(
    visit: Callable[..., Any], seen_run: Path, path: str, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    run = hw.Run.open(seen_run)
    marks_of(run).write(decide(run, LAST, "edit", fields={"prompt": "the river once loves"}, status="accepted"), 0)
    page = visit(path, width, color_scheme=scheme)
    assert page.locator(".failed").count() == 0  # the proof is that of the test above
    found = Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [(each["id"], each["nodes"][0]["target"]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
