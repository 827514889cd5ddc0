"""Photograph every page of a running workbench: python docs/images/workbench.py URL TOKEN [FOLDER]."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGES = {
    "predictions": "/predictions?which=wrong",
    "why": "/why?row=379",
    "corpus": "/corpus",
    "row": "/corpus/37",
    "words": "/words?label=spam",
    "word": "/word?word=call",
    "worklist": "/worklist",
    "group": "/worklist/group?audit=mislabels&group=ham+%E2%86%92+spam",
    "jobs": "/jobs",
    "proof": "/proof/1",
}
SIZES = {"": (1280, 900, "light"), "-dark": (1280, 900, "dark"), "-phone": (390, 844, "light")}
KEPT = {"": tuple(PAGES), "-dark": ("why", "worklist"), "-phone": ("group", "words")}


def main() -> None:
    """Write workbench-NAME.png files."""
    url, token, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).parent)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for suffix, (width, height, scheme) in SIZES.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{url}/predictions?token={token}")
            for name in KEPT[suffix]:
                page.goto(url + PAGES[name])
                page.wait_for_selector("body:not(:has(.waiting))", timeout=300_000)
                page.wait_for_timeout(1500)
                page.screenshot(path=folder / f"workbench-{name}{suffix}.png")
        browser.close()


if __name__ == "__main__":
    main()
