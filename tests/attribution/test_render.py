"""The page: self-contained, escaped, small, the same bytes each time, and silent about what it must hide."""

import copy
import re
from html.parser import HTMLParser

import answers
import pytest
from markupsafe import Markup

from headwater.attribution.render import render_fragment, render_page

ALL = [
    answers.sms_answer,
    answers.news_answer,
    answers.pair_answer,
    answers.hostile_answer,
    answers.empty_answer,
    answers.layers_answer,
    lambda: answers.long_answer(2),
]


class Reader(HTMLParser):
    """What a browser would see: tags with attributes, and text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._raw = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._raw = ""

    def handle_data(self, data):
        if not self._raw:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def values(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]


def page(answer, **options):
    return render_page(answer, title="Why?", **options)


@pytest.mark.parametrize("make", ALL)
def test_the_same_answer_gives_the_same_bytes_and_is_left_as_it_was(make):
    answer = make()
    before = copy.deepcopy(answer)
    assert page(answer) == page(make())
    assert answer == before


@pytest.mark.parametrize("make", ALL)
def test_a_page_names_no_address_to_fetch(make):
    found = Reader(page(make(), trial=answers.trial()))
    for name in ("src", "href", "action", "srcset", "data", "poster", "background"):
        assert all(value.startswith("#") or value == "data:," for value in found.values(name))
    assert "@import" not in page(make())
    assert "url(" not in page(make())
    (policy,) = [
        a["content"] for t, a in found.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_hostile_text_is_shown_as_text_wherever_it_stands():
    answer = answers.hostile_answer()
    html = render_page(answer, title="</title><script>alert(1)</script>", k=None, command="<b>run</b>")
    found = Reader(html)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not {"img", "iframe", "object", "embed"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert not [value for name in ("href", "src") for value in found.values(name) if "javascript" in value]
    for text in ("<script>alert('one')</script>", "{{ 7*7 }} {% raw %} ${x}", "<b>run</b>", "<script>warning</script>"):
        assert text in found.text
    assert "<script>note</script>" in found.text
    assert "מבצע" in found.text and "👩‍👩‍👧‍👦" in found.text
    ids = found.values("id")
    assert len(ids) == len(set(ids))


def test_characters_that_hide_or_reorder_others_are_named_and_contained():
    html = page(answers.hostile_answer(), k=None)
    for code in ("202E", "2066", "200B", "FEFF", "2028", "2029", "001B"):
        assert f"<bdi class=cc data-u={code}>{chr(int(code, 16))}</bdi>" in html
    outside = re.sub(r"<bdi class=cc data-u=\w+>.</bdi>", "", html, flags=re.DOTALL)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b]", outside.split("<script>")[0])
    assert "null \ufffd and lone \ufffd surrogate" in html
    html.encode("utf-8")  # the lone surrogate is gone


def test_texts_of_right_to_left_scripts_run_so_even_when_they_begin_with_a_fold():
    text = "free " * 3 + "שלום " * 60 + "free"
    row = answers.row(3, "ham", "שלום " * 60 + "free", "free", weights={"free": 1.0}, special=0.1)
    html = render_page(answers.answer([answers.query("free", "ham", "ham", [row], [])], ["ham"]), title="x")
    assert re.search(r"<div class=t dir=rtl><details><summary>\d+ words", html)
    other = answers.row(3, "ham", text, "free", weights={"free": 1.0}, special=0.1)
    html = render_page(answers.answer([answers.query("free", "ham", "ham", [other], [])], ["ham"]), title="x")
    assert "<div class=t dir=rtl>" not in html


def test_fifty_queries_of_300_word_rows_stay_under_two_megabytes_and_hold_each_row_once():
    answer = answers.long_answer(50, 300, 5)
    html = page(answer)
    assert len(html.encode()) < 2_000_000
    read = Reader(html)
    rows = {
        row["example"]: row["text"]
        for q in answer["queries"]
        for side in ("proponents", "opponents")
        for row in q[side]
    }
    assert len(rows) == 500
    plain = re.sub(r"<summary>.*?</summary>|<[^>]*>", "", html)
    for text in list(rows.values())[::25]:
        assert plain.count(text) == 1
    assert len([a for t, a in read.tags if t == "li" and "card" in (a.get("class") or "")]) == 500


def test_a_long_row_in_many_lists_is_kept_once_and_the_others_link_to_it():
    answer = answers.long_answer(3, 120, 2)
    hub = answer["queries"][0]["proponents"][0]
    for query in answer["queries"][1:]:
        query["proponents"][0] = hub
    html = page(answer)
    plain = re.sub(r"<summary>.*?</summary>|<[^>]*>", "", html)
    assert plain.count(hub["text"]) == 1
    home = f"q1t{hub['example']}"
    assert html.count(f"id={home} ") == 1
    assert html.count(f'href="#{home}"') >= 2


@pytest.mark.parametrize("trial", [None, answers.trial()])
def test_hidden_training_text_is_nowhere_in_the_file(trial):
    secret = "zanzibar"
    text = "You have been chosen, call now"
    rows = [
        answers.row(1, "ham", f"{secret} call {secret}", text, weights={"call": 1.0}, special=0.1, id="sms-1"),
        answers.row(2, secret, f"now {secret} " * 60, text, weights={"now": 2.0}, special=0.1),
        answers.row(3, "spam", "call", text, weights={}, special=0.1, pair=f"now {secret}"),
    ]
    rows[0]["words"][0] |= {"train": secret, "synonym": 0.7, "via": secret}
    query = answers.query(text, "spam", "ham", rows, [])
    query["summary"]["word"] = secret  # as if the strongest word were the training row's
    answer = answers.answer([query], ["ham", "spam"])
    shown = page(answer, trial=trial)
    hidden = page(answer, trial=trial, hide_training_text=True)
    assert secret in shown
    assert secret not in hidden
    assert secret not in render_fragment(answer, hide_training_text=True, trial=trial)
    for told in ("row 1", "sms-1", "row 2", "+2.", "lit at", "training text hidden"):
        assert told in hidden
    for row in rows:  # no training word that the query does not hold either, and no pairs
        for word in set(re.findall(r"\w+", f"{row['text']} {row['text_pair'] or ''}")) - set(re.findall(r"\w+", text)):
            assert not re.search(rf"\b{word}\b", Reader(hidden).text.replace("ham", "").replace("spam", ""))
    assert "data-m" not in re.sub(r"<script>.*?</script>", "", hidden, flags=re.DOTALL)


def test_the_sentence_says_what_the_answer_holds():
    text = Reader(page(answers.sms_answer())).text
    assert (
        "Said ham (0.93); labelled spam. Five rows hold 31% of the push toward spam; free carries 54% of theirs."
        in text
    )
    text = Reader(page(answers.empty_answer())).text
    assert "Said ham (0.93); labelled spam. No training row pushed it either way." in text
    assert "shares no word with any training row" in text
    answer = answers.news_answer()
    assert "Said Business (0.999+). Three rows hold" in Reader(page(answer)).text  # nobody gave a label
    answer["queries"][0]["summary"] |= {"top_rows": 1, "word_share": 0.004}
    assert (
        "One row holds 31% of the push toward Business; Crude carries under 1% of its score."
        in Reader(page(answer)).text
    )


def test_warnings_method_options_checkpoints_and_command_are_shown():
    text = Reader(page(answers.news_answer(), command="headwater query agnews --text '...'")).text
    for told in (
        "did not move in training (frozen)",
        "tracin-we",
        "synonyms: yes",
        "max_words: none",
        "checkpoint-63, step 63, weight 0.00038",
        "headwater query agnews --text '...'",
        "120,000 training rows",
        "×10⁻⁶",
    ):
        assert told in text


def test_a_hub_shows_in_how_many_lists_it_stands():
    html = page(answers.sms_answer())
    assert html.count("in 3 of 3 lists") == 3
    assert "in 1 of" not in html


def test_k_limits_the_rows_of_a_list():
    read = Reader(page(answers.sms_answer(), k=2))
    cards = [a for t, a in read.tags if t == "li" and "card" in (a.get("class") or "")]
    assert len(cards) == 2 * 2 * 3


def test_extra_sections_are_escaped_unless_trusted():
    html = page(answers.empty_answer(), extra_html_sections=["<i>one</i>", Markup("<i>two</i>")])
    assert "&lt;i&gt;one&lt;/i&gt;" in html
    assert "<i>two</i>" in html


def test_a_fragment_needs_no_script_touches_no_other_style_and_has_no_ids():
    html = render_fragment(answers.sms_answer(), trial=answers.trial())
    read = Reader(html)
    assert "script" not in {tag for tag, _ in read.tags}
    assert set(read.values("id")) <= {"trial", "trial-h"}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    rules = re.sub(r"@(media|container)[^{]*\{", "", style)
    for selectors in re.findall(r"([^{}]+)\{", rules):
        for selector in re.split(r",(?![^(]*\))", selectors):
            assert ".hw" in selector, selector
    assert "free" in read.text and "Before and after" in read.text


@pytest.mark.parametrize("queries", [[], None])
def test_an_answer_without_queries_says_so(queries):
    assert "there is nothing to show" in page(answers.answer(queries, []))


def test_a_method_without_word_scores_says_so():
    answer = answers.sms_answer()
    for query in answer["queries"]:
        for row in query["proponents"] + query["opponents"]:
            row["words"], row["special"] = [], 0.0
    assert "This method scores rows, not words." in Reader(page(answer)).text


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_is_readable_on_every_tone_in_light_and_dark(theme):
    html = page(answers.empty_answer())
    colours = {name: pair[theme] for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", html)}
    grounds = [f"{side}{tone}" for side in "pn" for tone in range(1, 5)]
    for ground in [*grounds, "paper", "card", "sunk"]:
        assert _contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for ground in ("paper", "card", "sunk"):
        assert _contrast(colours["soft"], colours[ground]) >= 4.5, ground
    for line, side in (("toward", "p"), ("away", "n")):
        assert _contrast(colours[line], colours["card"]) >= 3
        tones = [_luminance(colours[f"{side}{tone}"]) for tone in range(1, 5)]
        assert tones == sorted(tones, reverse=theme == 0)  # strength is a matter of lightness, too
