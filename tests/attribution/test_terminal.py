"""The terminal view: signs by hue and underline where there is colour, by plus and minus where there is none."""

import io
import re

import answers
import pytest
from rich.console import Console

from headwater.attribution.terminal import render_terminal


def shown(answer, *, width=100, colour=False, **options) -> str:
    system = "truecolor" if colour else None
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system=system, legacy_windows=False)
    render_terminal(answer, console, **options)
    return console.file.getvalue()


def flat(text: str) -> str:
    return re.sub(r"[│\s]+", " ", text)


def test_a_query_shows_its_sentence_its_rows_and_their_numbers():
    text = flat(shown(answers.sms_answer()))
    assert (
        "Said ham (0.93); labelled spam. Five rows hold 31% of the push toward spam; free carries 54% of theirs."
        in text
    )
    assert "+ Pushed toward spam" in text and "− Pushed away from spam" in text
    assert "+0.0458 99.95 1,204 spam" in text
    assert "5 lit +0.0410 + 5 unlit +0.0037 + special tokens +0.0011 = +0.0458" in text
    assert "in 3 of 3 lists" in text and "Note: cut to 64 tokens" in text


def test_without_colour_lit_words_carry_their_sign():
    text = flat(shown(answers.sms_answer()))
    assert "+FREE×2 +entry! Text WIN to +claim" in text
    assert "-Claim your -free×2 -prize now" in text
    assert "\x1b[" not in shown(answers.sms_answer())


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(answers.sms_answer(), colour=True)
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", text)
    assert "+FREE" in re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_with_colour_hue_and_a_second_mark_say_the_sign(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = shown(answers.sms_answer(), colour=True)
    assert re.search(r"\x1b\[1;4;38;2;47;134;224mFREE\x1b", text)  # bold, underlined, blue
    assert re.search(r"\x1b\[1;3;38;2;210;112;15mClaim\x1b", text)  # bold, italic, orange


def test_a_slice_of_an_answer_claims_no_total_of_lists():
    answer = answers.sms_answer()
    answer["queries"] = answer["queries"][:1]
    assert "in 3 lists" in flat(shown(answer)) and "of 1 lists" not in flat(shown(answer))


def test_long_rows_are_folded_and_synonyms_named():
    assert re.search(r"\[\d+ words, [+−]\d", shown(answers.long_answer(1, 300, 1)))
    text = flat(shown(answers.news_answer()))
    assert "+Oil ~ Crude .71" in text and "×10⁻⁶" in text
    assert "Warning: The word embeddings did not move" in text


def test_where_all_words_meet_strong_ones_name_their_partner():
    text = flat(shown(answers.layers_answer(), width=140))
    assert "+Oil × Crude +prices × Crude" in text
    assert "other pairs +0.8 + whole text +0.2 + special tokens +0.3 = +10.1" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_the_width(width):
    for line in shown(answers.sms_answer(), width=width, trial=answers.trial()).splitlines():
        assert len(line) <= width


def test_control_characters_do_not_reach_the_terminal():
    text = shown(answers.hostile_answer())
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text and "\r" not in text
    assert "<U+001B>[31mescape" in text.replace("\n", "") or "<U+001B>" in text
    assert "[bold]" not in text and "<script>" in text


def test_markup_in_texts_is_text():
    answer = answers.sms_answer()
    answer["queries"][0]["text"] = "[bold red]free[/] :smile:"
    answer["queries"][0]["words"] = [[10, 14, 0]]
    assert "[bold red]free[/] :smile:" in shown(answer)


def test_hidden_training_text_is_not_printed():
    text = shown(answers.sms_answer(), hide_training_text=True)
    assert "lit at" in text and "1,204" in text
    for word in ("WIN", "delivery", "coat", "Porto"):
        assert word not in text


def test_a_trial_shows_arms_and_queries_before_and_after():
    text = flat(shown(answers.sms_answer(), trial=answers.trial(), width=120))
    assert "Among the 160 rows removed: 121 of the 160 planted errors (by chance 12.8)." in text
    assert re.search(r"repaired 1,840 97.2% \+3.1 97.31% 97.49% 96.95%", text)
    assert "✗ ham 0.07 ✓ spam 0.98 fixed ✗ ham 0.11" in text and "broken" in text


def test_an_empty_answer_says_what_is_missing():
    assert "No training row pushed it either way." in flat(shown(answers.empty_answer()))
    assert "there is nothing to show" in shown(answers.answer([], []))
