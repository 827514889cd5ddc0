"""What a user does, from a wrong prediction to a proof, in a real browser: why, pin, mark a planted group, retrain."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import builders
from cli.conftest import TRAIN, headwater, write_rows
from headwater.engines.jobs import Jobs
from headwater.remedies.plan import Repair
from headwater.runs import Run
from web.test_worklist_page import suggest

FLIPPED = range(0, 24)
PATIENCE = 120_000  # milliseconds that a retraining may take


@pytest.fixture(scope="module")
def seen_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on 96 rows, a quarter of them with the wrong label, which an audit has found."""
    folder = tmp_path_factory.mktemp("planted")
    rows = builders.rows(96, seed=1)
    names = sorted({row["label"] for row in rows})
    for number in FLIPPED:
        rows[number]["label"] = next(name for name in names if name != rows[number]["label"])
    train = write_rows(folder / "train.jsonl", rows)
    held = write_rows(folder / "held.jsonl", builders.rows(80, seed=2))
    called = headwater("train", "--data", train, "--eval", held, *TRAIN, "--epochs", 4, "--out", folder / "run")
    assert called.code == 0, called.stderr
    called = headwater("index", folder / "run")
    assert called.code == 0, called.stderr
    corpus = Run.open(folder / "run").corpus
    suggest(
        folder / "run",
        [
            Repair(
                "relabel",
                row=row,
                hash=corpus[row].hash,
                label=next(name for name in names if name != corpus[row].label),
                status="suggested",
                source="mislabels",
                group="flipped",
            )
            for row in FLIPPED
        ],
    )
    yield folder / "run"
    jobs = Jobs(folder / "run" / "headwater" / "jobs")
    for job in jobs.all():
        jobs.cancel(job.number)
    shutil.rmtree(folder, ignore_errors=True)


def test_from_a_wrong_prediction_to_a_proof(visit: Callable[..., Any], seen_run: Path) -> None:
    from playwright.sync_api import expect

    page = visit("/predictions?which=wrong")
    page.get_by_role("link", name=re.compile(r"^Why row")).first.click()
    page.wait_for_url("**/why?**")
    page.locator("#q1 .asked u").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#q1 .pinned")).to_contain_text("pinned")
    page.keyboard.press("Escape")

    page.get_by_role("link", name="Worklist").first.click()
    page.wait_for_url("**/worklist")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/worklist/group**")
    expect(page.locator(".card")).to_have_count(10)
    page.keyboard.press("j")
    for done in range(1, 11):
        page.keyboard.press("a")
        expect(page.locator('.card[data-decided="changed"]')).to_have_count(done)
    expect(page.locator(".accept-group")).to_be_enabled()
    page.keyboard.press("A")
    expect(page.locator(".decided")).to_have_text("24 decided")

    page.goto(page.url.split("/worklist")[0] + "/jobs?kind=fix")
    expect(page.locator(".new")).to_contain_text("24 rows relabelled")
    page.locator("[name=seeds]").fill("2")
    page.get_by_role("button", name="What will it cost?").click()
    expect(page.locator(".cost")).to_contain_text("9 trainings of about", timeout=PATIENCE)
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".job .title")).to_have_text("Retrain and prove: 24 rows relabelled")
    expect(page.locator('.job[data-state="done"]')).to_have_count(1, timeout=PATIENCE)
    page.get_by_role("link", name="See the proof").click()
    expect(page.locator("h1")).to_have_text("Did the repair help?")
    expect(page.locator(".outcome")).to_contain_text("Against untouched")
    expect(page.locator(".came-true circle")).to_have_count(80)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", ["/jobs?kind=fix", "/jobs?kind=audit", "/proof/1"])
def test_jobs_and_proof_fit_and_axe_finds_nothing(
    visit: Callable[..., Any], path: str, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(path, width, color_scheme=scheme)
    assert page.locator("h1").inner_text() in ("Jobs", "Did the repair help?")
    found = Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [(each["id"], each["nodes"][0]["target"]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
