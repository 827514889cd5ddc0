"""Cards, the text and the empty answer of the Why? page in a real browser: what opens, what is edited, what is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from headwater.attribution.by_place import words_by_place
from headwater.web.state import Workbench
from web.test_worklist_page import suggest, suggested

REPEATED = "/why?text=the+heron+and+the+river+avoids+the+noisy+mill&k=10"


def test_a_card_is_opened_by_place_and_still_adds_up(visit: Callable[..., Any], bench: Workbench) -> None:
    from playwright.sync_api import expect

    page = visit(REPEATED)
    card = page.locator(".card:has(.apart)").first
    row = int(card.locator(".row").inner_text().removeprefix("row ").replace(",", ""))
    score = card.locator("header .score b").inner_text()
    assert "×" in "".join(card.locator("u[data-n]").evaluate_all("all => all.map((each) => each.dataset.n)"))
    name = card.get_attribute("id")
    card.locator(".apart").click()
    opened = page.locator(f"#{name}")
    expect(opened.locator(".apart")).to_have_count(0)
    assert opened.locator("header .score b").inner_text() == score
    label = bench.index.query([page.locator("#text").input_value()], show=False)[0].query.label
    truth = words_by_place(bench.index, [page.locator("#text").input_value()], [label], row)
    spans = {(p.train_spans[0].start, p.train_spans[0].end) for p in truth if p.part == "words" and not p.special}
    opened.locator(".more").click() if opened.locator(".more").count() else None
    assert opened.locator(".t u").count() == len(spans)
    numbers = [number.replace("−", "-") for number in opened.locator(".sum b").all_inner_texts()]
    parts, total = [float(number) for number in numbers[:-1]], float(numbers[-1].removeprefix("= "))
    assert sum(parts) == pytest.approx(total, abs=1e-9)
    assert opened.locator(".mark").count() == 1


def test_opening_by_key_keeps_the_pinned_word_and_the_current_card(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(REPEATED)
    page.locator("#q1 .asked u", has_text="the").first.click()
    card = page.locator(".card:has(.apart)").first
    card.focus()
    expect(card.locator(".decide")).to_be_visible()
    name = card.get_attribute("id")
    page.keyboard.press("l")
    expect(page.locator(f"#{name} .apart")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == name
    assert page.locator(f"#{name} .decide").count() == 1
    assert page.locator(f"#{name} u[data-k]").count() >= 1  # partners of the pinned word are numbered still
    assert "pinned" in page.locator("#q1 .pinned").inner_text()


def test_a_card_that_is_opened_keeps_the_focus_and_what_an_audit_suggests(
    visit: Callable[..., Any], seen_run: Path
) -> None:
    from playwright.sync_api import expect

    suggest(seen_run, suggested(seen_run, list(range(60))))
    page = visit(REPEATED)
    name = page.locator(".card:has(.apart)").first.get_attribute("id")
    card = page.locator(f"#{name}")
    expect(card.locator(".suggested")).to_have_text("mislabels: delete")
    page.route("**/why/card?*", lambda route: route.fulfill(status=503, json={"error": "Too many questions at once."}))
    card.locator(".apart").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".failure")).to_contain_text("Too many questions")
    expect(card.locator(".apart")).to_be_focused()
    page.unroute("**/why/card?*")
    page.keyboard.press("Enter")
    expect(card.locator(".apart")).to_have_count(0)
    expect(card).to_be_focused()
    expect(card.locator(".suggested")).to_have_count(1)
    page.keyboard.press("a")
    expect(card.locator(".mark")).to_have_text("marked: delete")


def test_delete_replaces_another_mark_and_takes_its_own_off(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(REPEATED)
    card = page.locator(".card").first
    card.focus()
    page.keyboard.press("q")
    expect(card.locator(".mark")).to_have_text("marked: kept as it is")
    card.locator(".decide button", has_text="delete").click()
    expect(card.locator(".mark")).to_have_text("marked: delete")
    page.keyboard.press("x")
    expect(card.locator(".mark")).to_have_text("mark")


def test_a_card_that_cannot_be_opened_stays_and_says_why(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(REPEATED)
    page.route("**/why/card?*", lambda route: route.fulfill(status=503, json={"error": "Too many questions at once."}))
    card = page.locator(".card:has(.apart)").first
    before = card.locator(".t").inner_text()
    card.locator(".apart").click()
    expect(page.locator(".failure")).to_contain_text("Too many questions")
    expect(card.locator(".apart")).to_have_text("by place")
    assert card.locator(".t").inner_text() == before


def test_a_row_is_decided_on_by_finger(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit(REPEATED, 390, has_touch=True)
    card = page.locator(".card").first
    now = card.locator("header .label").inner_text()
    card.locator(".score").tap()
    other = card.locator(".decide button", has_text=re.compile("good" if now == "bad" else "bad"))
    other.tap()
    expect(card.locator(".mark")).to_have_text(re.compile("^marked: relabel to"))
    card.locator(".decide button", has_text="keep").tap()
    expect(card.locator(".mark")).to_have_text("marked: kept as it is")


def test_the_text_is_edited_where_it_stands(visit: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = visit("/why?row=1")
    assert not page.locator("details.rewrite").is_visible()
    page.keyboard.press("e")
    field = page.locator("#q1 .ask textarea")
    expect(field).to_be_focused()
    assert field.input_value() and not page.locator("#q1 .asked").is_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#q1 .asked")).to_be_visible()
    page.locator(".edit-text").click()
    field.fill("the baker hates warm bread")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/why?text=the+baker+hates+warm+bread**")
    assert page.locator("#q1 .asked").inner_text().split() == ["the", "baker", "hates", "warm", "bread"]


def test_an_answer_without_rows_names_the_words_and_leads_on(visit: Callable[..., Any]) -> None:
    page = visit("/why?text=%E2%98%82&method=tracin-we%2Fspecial-tokens%3Dfalse")
    notes = page.locator(".notes").inner_text()
    assert "No training row pushed anything through: ☂." in notes and "No training row shares a word" in notes
    names = page.locator(".elsewhere a").all_inner_texts()
    assert names[0] == "match synonyms too" and "by bm25" in names
    page.locator(".elsewhere a", has_text="by tracin-we").or_(
        page.locator(".elsewhere a", has_text="count special tokens")
    ).first.click()
    page.wait_for_url(re.compile("method=tracin-we(%2Fspecial-tokens%3Dtrue)?$"))
    assert page.locator(".card").count() > 0


def test_hubs_are_told_once_words_were_summed_up(visit: Callable[..., Any], bench: Workbench) -> None:
    from playwright.sync_api import expect

    visit("/words")
    page = visit("/why?row=1")
    expect(page.locator(".hub").first).to_have_text(re.compile(r"^in \d+ of 120 lists$"))
    row = page.locator(".card:has(.hub) .row").first.inner_text().removeprefix("row ")
    assert isinstance(bench.index, hw.Index)
    lists = bench.index.query(bench.held_out, [str(e.label) for e in bench.held_out], 10, show=False)
    count = sum(int(row) in [p.example.row for p in (*item.proponents, *item.opponents)] for item in lists)
    assert page.locator(".hub").first.inner_text() == f"in {count} of 120 lists"
    page = visit("/why?row=1&method=bm25&method=tracin-we")  # other methods' lists are others
    expect(page.locator("#q2 .hub").first).to_be_visible()
    assert page.locator("#q1 .card").count() > 0 and page.locator("#q1 .hub").count() == 0
