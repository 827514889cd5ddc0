"""The page in a real browser: what a reader does with mouse, finger and keyboard."""

import answers
import pytest

from headwater.attribution.render import render_fragment, render_page


@pytest.fixture
def open_page(browser, tmp_path):
    """Open a page and watch it: errors, messages and requests make the test fail at its end."""
    contexts, faults = [], []

    def open_it(html: str, width: int = 1280, height: int = 1000, **options):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda r: faults.append(f"request: {r.url}") if r.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "data:," not in fault]


def sms(**options) -> str:
    return render_page(answers.sms_answer(), title="Why ham?", trial=answers.trial(), **options)


def place(page) -> str:
    return page.evaluate("location.hash")


def first_free(page):
    return page.locator("#q1 .asked u", has_text="free").first


def rows(page, side: str) -> list[str]:
    return page.locator(f"#q1 .{side} .row").all_inner_texts()


def whole_texts(page) -> list[str]:
    """The texts of all cards, folds opened, without the folds' labels."""
    without = "t => (t = t.cloneNode(true), t.querySelectorAll('summary').forEach(s => s.remove()), t.textContent)"
    return page.eval_on_selector_all("#q1 .card .t", f"ts => ts.map({without})")


def test_the_script_draws_what_the_page_showed_without_it(open_page):
    for html in (
        sms(),
        render_page(answers.hostile_answer(), title="x", k=None),
        render_page(answers.long_answer(2), title="x"),
        render_page(answers.layers_answer(), title="x"),
    ):
        plain, live = open_page(html, java_script_enabled=False), open_page(html)
        live.wait_for_selector(".card[tabindex]")
        for page in (plain, live):
            page.wait_for_load_state()
        texts = [[t.replace("\n", " ") for t in p.locator("#q1 .t").all_inner_texts()] for p in (plain, live)]
        assert texts[0] == texts[1]
        lit = [
            p.eval_on_selector_all(
                "#q1 .t > u:not(.weak)", "us => us.map(u => [u.className || 'p1', u.textContent, u.dataset.n])"
            )
            for p in (plain, live)
        ]
        assert lit[0] == lit[1]


def test_pinning_a_word_numbers_its_partners_sorts_by_it_and_draws_one_connector(open_page):
    page = open_page(sms())
    before = rows(page, "toward")
    assert page.locator("[data-k]").count() == 0
    first_free(page).click()
    numbered = page.eval_on_selector_all(
        "#q1 .card u[data-k]", "us => us.map(u => [u.dataset.k, u.textContent.toLowerCase()])"
    )
    assert numbered == [[str(at + 1), "free"] for at in range(6)]
    assert page.locator("#q1 .pinned").inner_text().split("\n")[0].startswith("free")
    assert "4 rows pushing toward" in page.locator("#q1 .pinned").inner_text()
    assert first_free(page).get_attribute("aria-pressed") == "true"
    assert page.locator(".tie").evaluate("t => getComputedStyle(t).display") == "block"
    assert place(page) == "#q1w6"
    assert "pinned" in page.locator("[role=status]").inner_text()
    dimmed = page.locator("#q1 .card.off").count()
    assert dimmed == 10 - 6
    page.keyboard.press("Escape")
    assert page.locator("[data-k]").count() == 0
    assert rows(page, "toward") == before
    assert page.locator(".tie").evaluate("t => getComputedStyle(t).display") == "none"


def test_rows_are_sorted_by_the_pinned_word(open_page):
    page = open_page(sms())
    page.locator("#q1 .asked u", has_text="entry").click()
    assert [text.split()[1] for text in rows(page, "toward")][:2] == ["1,204", "940"]
    page.locator("#q1 .asked u", has_text="entry").click()  # again: lets go
    assert [text.split()[1] for text in rows(page, "toward")][:2] == ["1,204", "512"]


def test_an_address_with_a_pinned_word_opens_pinned(open_page, tmp_path):
    page = open_page(sms())
    first_free(page).click()
    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("#q1 .card u[data-k]").count() == 6


def test_hover_outlines_partners_and_dims_the_rest(open_page):
    page = open_page(sms())
    page.locator("#q1 .asked u", has_text="claim").hover()
    assert page.locator("#q1.tracing").count() == 1
    lit = page.eval_on_selector_all("#q1 .card u.on", "us => us.map(u => u.textContent.toLowerCase())")
    assert set(lit) == {"claim"}
    page.wait_for_timeout(300)  # it fades
    ground = "c => getComputedStyle(c).backgroundColor"
    assert page.locator("#q1 .card.off").first.evaluate(ground) == "rgba(0, 0, 0, 0)"
    assert page.locator("#q1 .card:not(.off)").first.evaluate(ground) == "rgb(255, 255, 255)"
    ink = page.eval_on_selector_all(
        "#q1 .card:not(.off) .t, #q1 .card:not(.off) .t u", "us => [...new Set(us.map(u => getComputedStyle(u).color))]"
    )
    assert len(ink) == 1  # the ink never changes
    page.mouse.move(5, 5)
    assert page.locator("#q1.tracing").count() == 0


def test_where_every_word_meets_every_other_only_strong_pairs_are_traced(open_page):
    page = open_page(render_page(answers.layers_answer(), title="x"))
    traced = "us => us.map(u => u.firstChild.textContent)"
    page.locator("#q1 .toward u", has_text="Oil").hover()
    assert "Oil" in page.locator("#q1 .card").nth(1).locator("u.on").evaluate_all(traced)
    assert {"Crude", "prices"} <= set(page.locator("#q1 .asked u.on").evaluate_all(traced))
    assert 0 < page.locator("#q1 .card u.on").count() < page.locator("#q1 .card u:not(.weak)").count() / 2
    weak = page.locator("#q1 .card").first.locator("u", has_text="at").first
    weak.hover()
    assert weak.evaluate("u => [u.classList.contains('on'), 'n' in u.dataset, u.title.includes('× prices')]") == [
        True, False, True,
    ]  # fmt: skip
    page.locator("#q1 .asked u", has_text="prices").click()
    page.mouse.move(5, 5)
    assert 3 <= page.locator("#q1 .card u[data-k]").count() <= 12
    assert page.locator("#q1 .pinned").inner_text().startswith("prices pinned")


def test_all_lights_every_word_and_unfolds_the_row(open_page):
    page = open_page(render_page(answers.long_answer(1, 300, 2), title="x"))
    card = page.locator("#q1 .card").first
    button = card.locator(".more")
    text = card.locator(".t").evaluate("t => t.textContent")
    assert card.locator("details[open]").count() == 0
    faint = card.locator("u.weak").first
    assert faint.evaluate("u => getComputedStyle(u).backgroundColor") == "rgba(0, 0, 0, 0)"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert card.locator("details:not([open])").count() == 0
    page.mouse.move(5, 5)  # the text grew under the pointer, which now stands on a word
    page.wait_for_timeout(300)
    assert faint.evaluate("u => getComputedStyle(u).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert card.locator(".t").evaluate("t => t.textContent") == text
    button.click()
    assert card.locator("details[open]").count() == 0


def test_pinning_a_word_whose_partner_is_folded_away_brings_it_into_view(open_page):
    page = open_page(render_page(answers.long_answer(1, 300, 3), title="x"))
    page.wait_for_selector(".card[tabindex]")
    # A query word that only meets folded text on some card.
    word = page.evaluate(
        """() => { const q = [...document.querySelectorAll('#q1 .asked > .t > u')];
          return q.findIndex(u => { u.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
            const held = document.querySelectorAll('#q1 .card .holds:not([open])').length;
            u.dispatchEvent(new PointerEvent('pointerout', {bubbles: true})); return held > 0; }); }"""
    )
    assert word >= 0
    texts = sorted(whole_texts(page))
    page.locator("#q1 .asked > .t > u").nth(word).click()
    hidden = page.locator("#q1 .card .t > details:not([open]) u[data-k]").count()
    assert page.locator("#q1 .card u[data-k]").count() > 0 and hidden == 0
    page.keyboard.press("Escape")
    again = sorted(whole_texts(page))
    assert again == texts


def test_everything_works_by_keyboard(open_page):
    page = open_page(sms())
    page.keyboard.press("j")
    page.keyboard.press("j")
    current = page.evaluate("document.activeElement.id")
    assert current == "q1t512"
    box = page.locator(f"#{current}").bounding_box()
    assert box["y"] >= page.locator("#q1 .ask").bounding_box()["height"] and box["y"] + box["height"] <= 1000
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == "q1t1204"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "FREE"
    page.keyboard.press("Enter")
    assert page.locator("#q1 .card u[data-k]").count() == 6
    assert page.evaluate("document.activeElement.textContent") == "FREE"
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert page.locator("#q1t1204.all").count() == 1
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.id") == "q2h"
    page.keyboard.press("n")
    page.keyboard.press("p")
    assert place(page) == "#q2"
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_theme_follows_the_system_until_somebody_chooses(open_page):
    page = open_page(sms(), color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button = page.get_by_role("button", name="Light")
    button.click()
    light = page.evaluate(ground)
    assert dark == "rgb(17, 20, 25)" and light == "rgb(244, 245, 247)"
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark


def test_only_the_queries_that_differ_can_be_kept(open_page):
    page = open_page(sms())
    page.get_by_role("checkbox").check()
    assert [section.get_attribute("id") for section in page.locator(".query:visible").all()] == ["q1", "q3"]
    page.keyboard.press("n")
    assert place(page) == "#q3"


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("make", [answers.sms_answer, answers.hostile_answer, lambda: answers.long_answer(1)])
def test_nothing_scrolls_sideways_on_a_phone(open_page, make, script):
    html = render_page(make(), title="W" * 300, trial=answers.trial(), command="headwater " + "x" * 300)
    page = open_page(html, 390, 844, java_script_enabled=script)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_phone_shows_one_column_at_a_time_behind_tabs(open_page):
    page = open_page(sms(), 390, 844)
    toward, away = page.locator("#q1 .toward"), page.locator("#q1 .away")
    assert toward.is_visible() and not away.is_visible()
    page.locator("#q1").get_by_role("tab", name="Pushed away from spam (5)").click()
    assert away.is_visible() and not toward.is_visible()
    page.set_viewport_size({"width": 1280, "height": 900})
    assert away.is_visible() and toward.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_going_to_a_query_ends_there_and_the_list_of_queries_follows(open_page, width):
    page = open_page(render_page(answers.long_answer(8, 60, 2), title="x"), width, 700)
    for _ in range(6):
        page.keyboard.press("n")
        page.wait_for_timeout(60)
    page.wait_for_timeout(300)
    assert abs(page.locator("#q7").bounding_box()["y"]) < 40
    assert page.locator(".rail a[aria-current]").get_attribute("href") == "#q7"
    box, link = page.locator(".rail ol").bounding_box(), page.locator(".rail a[aria-current]").bounding_box()
    assert box["y"] - 1 <= link["y"] and link["y"] + link["height"] <= box["y"] + box["height"] + 1


def test_paper_shows_both_columns_in_light_colours_without_controls(open_page):
    page = open_page(sms(), 700, 1000, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#q1 .toward").is_visible() and page.locator("#q1 .away").is_visible()
    assert not page.locator(".tools").is_visible() and not page.locator(".tabs").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#q1 .ask").evaluate("a => getComputedStyle(a).position") != "sticky"


def test_hidden_training_text_leaves_a_page_that_works(open_page):
    page = open_page(sms(hide_training_text=True))
    page.keyboard.press("j")
    page.keyboard.press("a")
    first_free(page).click()
    assert page.locator("[data-k]").count() == 0
    assert "lit at" in page.locator("#q1 .card").first.inner_text()


def test_hostile_text_stays_text_in_a_browser(open_page):
    page = open_page(render_page(answers.hostile_answer(), title="<script>alert(1)</script>", k=None))
    page.wait_for_selector(".card[tabindex]")
    assert page.title() == "<script>alert(1)</script>"
    assert page.locator("img, iframe").count() == 0
    words = page.eval_on_selector_all("#q1 .card .t > u:not(.weak)", "us => us.map(u => u.textContent)")
    assert words.count("free") >= 24  # marks stand where they should behind emoji, controls and two scripts
    page.locator("#q1 .asked u", has_text="free").first.click()
    assert page.locator("#q1 .card u[data-k]").count() == 24


def test_a_fragment_fits_a_notebook_of_either_theme(open_page):
    html = render_fragment(answers.sms_answer())
    for theme, ground in (("true", "rgb(244, 245, 247)"), ("false", "rgb(17, 20, 25)")):
        page = open_page(f"<!doctype html><body data-jp-theme-light={theme}><p>before</p>{html}", 600, 800)
        assert page.locator(".hw").evaluate("h => getComputedStyle(h).backgroundColor") == ground
        assert page.evaluate("document.documentElement.scrollWidth") <= 600
        assert page.locator("p").first.evaluate("p => getComputedStyle(p).margin") != "0px"
