"""What is lit, folded and printed: the visual grammar, checked on the views that page and terminal share."""

import itertools
import math

import answers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.attribution import fold, light, pack
from headwater.attribution.light import Mark
from headwater.attribution.numerals import Scale, percent, percentile, probability
from headwater.attribution.strip import WIDTH, Strip, strip
from headwater.attribution.view import view

scores = st.floats(-10, 10, allow_nan=False).filter(lambda x: abs(x) > 1e-9)
texts = st.text(st.sampled_from("ab ,.\n\u05d0\u4e2d\u0e01\U0001f469\u200d\u0301\U0001f3fd"), max_size=400)


def marks(values):
    ordered = sorted(values, key=lambda value: -abs(value))
    return [Mark("w", ((2 * at, 2 * at + 1, 0),), (((at,), value),)) for at, value in enumerate(ordered)]


@given(st.lists(scores, max_size=40))
def test_the_fewest_strongest_words_that_hold_nine_tenths_are_lit_and_never_more_than_twelve(values):
    lit = light.count_lit(marks(values))
    total = sum(map(abs, values))
    ordered = sorted(map(abs, values), reverse=True)
    assert lit <= 12
    assert lit == min(12, len(values)) or sum(ordered[:lit]) >= 0.9 * total * (1 - 1e-9)
    if lit:
        assert sum(ordered[: lit - 1]) < 0.9 * total * (1 + 1e-9)


def test_each_tone_is_twice_the_one_before_and_the_sign_is_in_the_class():
    assert [light.tone_class(score, 8.0) for score in (8, 4, 3.9, 2, 1, 0.9)] == ["p4", "p4", "p3", "p3", "p2", "p1"]
    assert light.tone_class(-8.0, 8.0) == "n4"
    assert light.tone(0.0, 0.0) == 1


def test_one_scale_holds_for_both_columns_of_a_query():
    (query,) = view(answers.pair_answer()).queries
    strongest = max(abs(mark.score) for card in (*query.toward, *query.away) for mark in card.marks)
    for card in (*query.toward, *query.away):
        for piece in itertools.chain(*card.parts):
            if piece.kind == "lit":
                assert piece.tone == light.tone_class(piece.score, strongest)
    assert any(piece.tone == "p4" for card in query.toward for piece in itertools.chain(*card.parts))


def test_a_word_in_three_places_is_lit_in_each_noted_once_and_counted_once():
    found = view(answers.sms_answer()).queries[1].toward[1]
    lit = [piece for piece in found.parts[0] if piece.kind == "lit" and piece.text == "sorry"]
    assert [piece.note for piece in lit] == ["×3", "", ""]
    assert len([mark for mark in found.marks if mark.word == "sorry"]) == 1
    assert found.terms[0].units + found.terms[1].units + found.terms[2].units == found.terms[3].units


def test_synonyms_and_shared_parts_are_noted():
    (query,) = view(answers.news_answer()).queries
    notes = {piece.text: piece.note for card in query.toward for piece in card.parts[0] if piece.note}
    assert notes["Oil"] == "~ Crude .71"
    assert notes["Prices"] == "×3"
    mark = Mark("winning", ((0, 7, 0),), (((0,), 1.0),), via="##ing")
    from headwater.attribution.view import note_of

    assert note_of(mark, ["calling"], [(0, 7, 0)]) == "##ing"


def test_a_strong_word_names_the_word_that_it_meets_where_all_words_meet():
    (query,) = view(answers.layers_answer()).queries
    pieces = [piece for card in query.toward for piece in card.parts[0] if piece.kind == "lit"]
    told = {piece.text: piece.note for piece in pieces if piece.tone in ("p3", "p4")}
    assert told["Oil"] == told["climb"] == "× Crude" and told["Crude"] == "× prices"
    assert told["Prices"] == "" and {p.note for p in pieces if p.tone in ("p1", "p2")} == {""}
    assert sum(piece.text.lower() == "prices" for piece in pieces) == 4  # each place by itself, counted by itself


def test_sums_beside_the_words_are_lit_nowhere_and_are_in_the_line_that_adds_up():
    answer = answers.layers_answer()
    row = answer["queries"][0]["proponents"][0]
    card = view(answer).queries[0].toward[0]
    assert [term.name for term in card.terms][2:] == ["other pairs", "whole text", "special tokens", "score"]
    assert all(mark.spans and mark.word for mark in card.marks)
    words = [pair for pair in row["words"] if pair["part"] == "words" and not pair["special"]]
    assert sum(mark.score for mark in card.marks) == pytest.approx(sum(pair["score"] for pair in words))
    rest = sum(pair["score"] for pair in row["words"] if pair["part"] == "rest")
    assert abs(card.terms[2].units - card.scale.units(rest)) <= 1


def test_a_row_without_words_has_no_line_that_adds_up():
    answer = answers.layers_answer()
    for row in answer["queries"][0]["proponents"]:
        row["words"], row["special"] = [], 0.0
    (query,) = view(answer).queries
    assert all(card.terms == card.marks == () and card.lit == 0 for card in query.toward)


def test_a_query_word_shows_the_stronger_of_the_two_columns_not_their_difference():
    text = "free lunch"
    up = answers.row(1, "a", "free", text, weights={"free": 1.0}, special=0.0)
    down = answers.row(2, "b", "free lunch", text, weights={"free": -1.0, "lunch": -0.9}, special=0.0)
    (query,) = view(answers.answer([answers.query(text, "a", "a", [up], [down])], ["a", "b"])).queries
    assert {mark.word: mark.score for mark in query.marks} == {"free": 1.0, "lunch": -0.9}


@pytest.mark.parametrize(
    "make", [answers.sms_answer, answers.news_answer, answers.pair_answer, answers.long_answer, answers.layers_answer]
)
def test_the_printed_line_adds_up_to_the_printed_score(make):
    answer = make(queries=3) if make is answers.long_answer else make()
    for query in view(answer).queries:
        for card in (*query.toward, *query.away):
            printed = [float(card.scale.show(term.units).replace("−", "-").replace(",", "")) for term in card.terms]
            assert math.isclose(sum(printed[:-1]), printed[-1], abs_tol=10.0**-card.scale.decimals / 2)
            assert card.scale.show(card.terms[-1].units) == card.scale(card.score)


def test_words_that_do_not_add_up_to_the_score_are_said_not_to():
    answer = answers.sms_answer()
    row = answer["queries"][0]["proponents"][0]
    row["score"] *= 2
    terms = view(answer).queries[0].toward[0].terms
    assert [term.name for term in terms][2] == "not on words"
    assert sum(term.units for term in terms[:-1]) == terms[-1].units


def test_rows_to_forty_words_stay_whole_and_longer_ones_are_folded():
    assert not view(_row_of(40)).queries[0].toward[0].folded
    card = view(_row_of(400)).queries[0].toward[0]
    assert card.folded
    shown = sum(len(piece.text.split()) for piece in card.parts[0] if piece.kind != "gap")
    assert shown == 7  # the lit word and three on either side
    assert [piece.label for piece in card.parts[0] if piece.kind == "gap"] == ["197 words", "196 words"]
    assert "".join(piece.text for piece in card.parts[0]) == card.texts[0]


def _row_of(words: int):
    text = " ".join(["x"] * (words // 2) + ["free"] + ["x"] * (words - words // 2 - 1))
    row = answers.row(1, "a", text, "free", weights={"free": 1.0}, special=0.0)
    return answers.answer([answers.query("free", "a", "a", [row], [])], ["a"])


def test_a_gap_says_what_the_unlit_words_in_it_push():
    text = "free " + "x " * 100 + "weak"
    row = answers.row(1, "a", text, "free weak", weights={"free": 1.0, "weak": 0.05}, special=0.0)
    card = view(answers.answer([answers.query("free weak", "a", "a", [row], [])], ["a"])).queries[0].toward[0]
    assert [piece.label for piece in card.parts[0] if piece.kind == "gap"] == ["98 words, +0.05"]


@given(texts, st.lists(st.tuples(st.integers(0, 390), st.integers(1, 9)), max_size=6))
def test_windows_cover_the_text_in_turn_and_keep_every_lit_word_in_view(text, where):
    spans = [(start, min(start + size, len(text))) for start, size in where if start < len(text)]
    windows = fold.fold(text, spans)
    assert "".join(text[w.start : w.end] for w in windows) == text
    for one, other in itertools.pairwise(windows):
        assert one.shown != other.shown
    shown = {at for w in windows if w.shown for at in range(w.start, w.end)}
    for unit in fold.units(text):
        if any(start < unit.end and unit.start < end for start, end in spans):
            assert set(range(unit.start, unit.end)) <= shown


def test_a_fold_never_cuts_an_emoji_or_a_letter_from_its_marks():
    family = "👩\u200d👩\u200d👧\u200d👦"
    text = family * 30 + "e\u0301" * 200 + "👍🏽" * 60
    for unit in fold.units(text):
        assert text[unit.start] not in "\u200d\u0301🏽"
    gaps = [w for w in fold.fold(text, [(0, 5)]) if not w.shown]
    assert gaps and all(gap.amount.endswith("characters") for gap in gaps)


def test_text_without_spaces_folds_by_characters_and_a_huge_word_too():
    assert fold.count_words("你好世界") == 4
    (gap,) = [w for w in fold.fold("w" * 5000, [(0, 1)]) if not w.shown]
    assert gap.amount == "4,840 characters"
    (gap,) = [w for w in fold.fold("free " + "word " * 1200, [(0, 4)]) if not w.shown]
    assert gap.amount == "1,197 words"


@given(st.floats(1e-12, 1e12))
def test_the_largest_score_is_printed_with_three_digits(largest):
    scale = Scale.of(largest)
    digits = scale(largest).lstrip("+").replace(",", "").replace(".", "").lstrip("0")
    assert len(digits) >= 3
    assert len(digits) <= 5
    assert scale.exponent % 3 == 0


def test_a_weak_row_is_printed_with_digits_of_its_own_in_the_same_unit():
    scale = Scale.of(33.3e-6)
    assert [scale.finer(score)(score) for score in (33.3e-6, -0.237e-6, 0.0451e-6)] == ["+33.3", "−0.24", "+0.045"]
    assert scale.finer(1e-15)(1e-15) == "0.00000" and scale.finer(0.0) == scale
    assert {scale.finer(score).unit for score in (33.3e-6, 1e-15)} == {"×10⁻⁶"}
    assert Scale.of(0.5).finer(0.0005)(0.0005) == "+0.00050"


def test_numbers_read_as_people_write_them():
    assert Scale.of(0.012)(0.012) == "+0.0120"
    assert (Scale.of(1.24e-5)(1.24e-5), Scale.of(1.24e-5).unit) == ("+12.4", "×10⁻⁶")
    assert (Scale.of(3e7)(-3e7), Scale.of(3e7).unit) == ("−30.0", "×10⁶")
    assert Scale.of(0.0)(0.0) == "0.00"
    assert [percent(x) for x in (0.314, 0.001, 0.999, 1.0, 0.0)] == ["31%", "under 1%", "over 99%", "100%", "0%"]
    assert [percentile(x) for x in (99.95, 100.0, 0.05, 0.0)] == ["99.95", "100", "0.05", "0"]
    assert [probability(x) for x in (0.93, 0.997, 0.9999, 1.0, 0.0021)] == ["0.93", "0.99+", "0.999+", "1.00", "0.002"]


def test_packed_marks_count_characters_as_scripts_do():
    text, other = "🎉🎉 free", "x free"
    mark = Mark("free", ((3, 7, 0), (2, 6, 1)), (((7,), 0.5), ((2, 9), -0.25)), 0.71)
    packed = pack.pack([mark], 1, [text, other], Scale(0, 2))
    # 🎉 is two units: "free" begins at 5; the second text begins at 10, its word at 12, 7 further on.
    assert packed == "1/1;5.4,7:7=dw|2.9=-6y~1z"
    assert int("dw", 36) == 500 and int("6y", 36) == 250 and int("1z", 36) == 71


def test_packed_marks_say_where_every_word_meets_every_other_and_keep_all_pairs():
    pushes = tuple(((at,), 0.5) for at in range(9))
    mark = Mark("w", ((0, 5, 0),), pushes, loose=True, crossed=True)
    packed = pack.pack([mark], 1, ["weird"], Scale(0, 2))
    assert packed == "1/1;0:0=dw|1|2|3|4|5|6|7|8*1"
    same = Mark("w", ((0, 5, 0),), pushes[:1], loose=True)
    assert pack.pack([same], 1, ["weird"], Scale(0, 2)).endswith("=dw*0")
    assert pack.pack([mark], 1, ["weird"], Scale(0, 2), 16).count("|") == pack.PUSHES[0]


def test_packed_marks_of_a_long_report_keep_the_strongest_and_the_sum_of_the_rest():
    pushes = tuple(((at,), 1.0 / (at + 1)) for at in range(10))
    few = pack.pack([Mark("w", ((0, 5, 0),), pushes)], 0, ["weird"], Scale(0, 2), 16)
    kept = [part.split("=") for part in few.split(":")[1].split("|")]
    assert len(kept) == pack.PUSHES[1] + 1
    assert sum(int(units, 36) for _, units in kept) == pytest.approx(1000 * sum(score for _, score in pushes), abs=2)
    many = [Mark("w", ((5 * at, 5 * at + 5, 0),), (((at,), 1.0),)) for at in range(40)]
    assert pack.pack(many, 12, ["x" * 200], Scale(0, 2), 16).count(";") == 16
    assert pack.pack(many, 12, ["x" * 200], Scale(0, 2)).count(";") == 40


def test_the_strip_maps_every_place_of_the_lit_words_to_its_share_of_the_text():
    mark = Mark("w", ((0, 10, 0), (90, 100, 0)), (((0,), 1.0),))
    down = Mark("v", ((50, 60, 0),), (((0,), -1.0),))
    found = strip(["x" * 100], [mark, down])
    assert found.toward == ((0, WIDTH // 10), (WIDTH * 9 // 10, WIDTH))
    assert found.away == ((WIDTH // 2, WIDTH * 6 // 10),)
    assert Strip.dashes(found.away) == f"0 {WIDTH // 2} {WIDTH // 10} 999"


def test_overlapping_words_share_no_character_on_screen():
    one = Mark("ab", ((0, 4, 0),), (((0,), 1.0),))
    two = Mark("cd", ((2, 6, 0),), (((0,), 2.0),))
    three = Mark("ab", ((0, 4, 0),), (((1,), 0.5),))
    found = light.places([one, two, three], 0, 10)
    assert [(place.start, place.end, place.score) for place in found] == [(0, 4, 1.5), (4, 6, 2.0)]
    assert light.places([Mark("x", ((8, 20, 0),), ())], 0, 10) == []
