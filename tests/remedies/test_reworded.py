"""Old and new words of a text: together the pieces are both texts, and a short change is told as a short one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.remedies.reworded import reworded

WORDS = st.lists(st.sampled_from(["warm", "bread", " ", "\n", ",", "river", "é", "\u200b"]), max_size=40).map("".join)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_the_pieces_are_both_texts(old: str, new: str) -> None:
    pieces = reworded(old, new)
    assert "".join(text for kind, text in pieces if kind != "new") == old
    assert "".join(text for kind, text in pieces if kind != "old") == new


def test_a_word_that_changed_is_named_alone() -> None:
    assert reworded("The capital is Berlin.", "The capital is Bonn.") == (
        ("same", "The capital is"),
        ("old", " Berlin"),
        ("new", " Bonn"),
        ("same", "."),
    )
    assert reworded("bread", "bread") == (("same", "bread"),)


@pytest.mark.parametrize("words", ["a b " * 20_000, "x" * 50_000])
def test_huge_texts_are_compared_at_once(words: str) -> None:
    began = time.process_time()
    pieces = reworded(words + "bread", "rain " + words[::-1])
    assert "".join(text for kind, text in pieces if kind != "new") == words + "bread"
    assert time.process_time() - began < 20
