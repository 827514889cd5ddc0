"""Draw the pictures of this folder from the tests' example answers: `python docs/images/make.py [CHROMIUM]`."""

import io
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "attribution"))

import answers  # noqa: E402

from headwater.attribution.render import render_page  # noqa: E402
from headwater.attribution.terminal import render_terminal  # noqa: E402

SMS = render_page(
    answers.sms_answer(),
    title="Why did it say ham?",
    trial=answers.trial(),
    command="headwater query demo-run --queries wrong.jsonl --html report.html",
)
NEWS = render_page(answers.news_answer(), title="Why Business?")
LONG = render_page(answers.long_answer(4), title="Long rows, folded")
HIDDEN = render_page(answers.sms_answer(), title="Without training text", hide_training_text=True)


def pin(page: Page, word: str) -> None:
    """Pin a word of the first query."""
    page.locator("#q1 .asked u", has_text=word).first.click()


def to_trial(page: Page) -> None:
    """Go to the removal trial."""
    page.evaluate("document.querySelector('#trial').scrollIntoView()")


PICTURES = {  # name: (page, width, height, dark, what to do first)
    "why": (SMS, 1280, 1000, False, None),
    "why-pinned": (SMS, 1280, 1000, False, lambda page: pin(page, "free")),
    "why-dark-synonyms": (NEWS, 1280, 800, True, lambda page: pin(page, "Crude")),
    "why-long-rows": (LONG, 1280, 1000, False, None),
    "why-hidden-text": (HIDDEN, 1280, 800, False, None),
    "why-phone": (SMS, 390, 844, False, lambda page: page.evaluate("document.querySelector('#q1').scrollIntoView()")),
    "before-and-after": (SMS, 1280, 760, False, to_trial),
}


def terminal() -> str:
    """Draw the terminal view as SVG."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    answer = answers.sms_answer()
    answer |= {"queries": answer["queries"][:1], "lists": len(answer["queries"])}
    render_terminal(answer, console, k=3, trial=answers.trial())
    return re.sub(r"@font-face *{[^}]*}", "", console.export_svg(title="headwater query"))  # no fonts from elsewhere


def main() -> None:
    """Draw every picture."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=sys.argv[1] if len(sys.argv) > 1 else "/usr/bin/chromium", args=["--no-sandbox"]
        )
        for name, (html, width, height, dark, first) in PICTURES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            path = Path(folder) / f"{name}.html"
            path.write_text(html, encoding="utf-8")
            page.goto(path.as_uri())
            page.wait_for_timeout(300)
            if first:
                first(page)
                page.mouse.move(2, 2)
                page.wait_for_timeout(300)
            page.screenshot(path=HERE / f"{name}.png")
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        page.set_content(f"<body style='margin:0'>{terminal()}")
        page.locator("svg").screenshot(path=HERE / "terminal.png")


if __name__ == "__main__":
    main()
