"""A removal trial on the page: what was found, what it did, and neither hidden when it harmed."""

import re

import answers
import pytest

from headwater.attribution.render import render_page
from headwater.attribution.trial import trial_view


def test_arms_show_their_mean_every_seed_and_the_change_in_points():
    untouched, repaired, random = trial_view(answers.trial()).arms
    assert (untouched.mean, untouched.change) == ("94.2%", "")
    assert (repaired.mean, repaired.change) == ("97.2%", "+3.1")
    assert (random.mean, random.change) == ("94.1%", "−0.1")
    assert repaired.values == ("97.31%", "97.49%", "96.95%")
    assert all(0 <= dot <= 1 for arm in (untouched, repaired, random) for dot in (*arm.dots, arm.at))
    assert untouched.at < repaired.at


@pytest.mark.parametrize("accuracy", [[0.9], [0.5, 0.5], [0.0, 1.0], [0.98765, 0.98766], [1.0, 1.0]])
def test_an_axis_holds_every_value_on_round_ticks(accuracy):
    found = trial_view({"arms": [{"name": "untouched", "accuracy": accuracy, "rows": 1}]})
    assert 2 <= len(found.ticks) <= 8
    assert found.ticks[0][0] == 0 and found.ticks[-1][0] == pytest.approx(1)
    assert all(0 <= dot <= 1 for dot in found.arms[0].dots)
    labels = [label for _, label in found.ticks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("by", ["accuracy", "loss"])
@pytest.mark.parametrize("values", [[0.0, 0.0], [0.0001, 0.00012], [0.001, 0.9], [0.99, 1.0], [1.0, 1.0]])
def test_an_axis_shows_nothing_that_cannot_be(by, values):
    found = trial_view({"arms": [{"name": "untouched", by: values, "rows": 1}]})
    ticks = [float(label.removesuffix("%")) for _, label in found.ticks]
    assert len(ticks) >= 2 and ticks[0] >= 0 and (by == "loss" or ticks[-1] <= 100)
    assert not any(label.startswith(("-", "−")) for _, label in found.ticks)
    assert all(0 <= dot <= 1 for dot in found.arms[0].dots)


def test_fixed_and_broken_queries_are_both_named():
    queries = trial_view(answers.trial()).queries
    assert [query.outcome for query in queries] == ["fixed", "fixed", "broken"]
    assert [state.right for state in queries[2].states] == [True, False, True]


def test_the_page_tells_the_verdict_the_find_and_its_chance():
    html = render_page(answers.sms_answer(), title="x", trial=answers.trial())
    text = re.sub(r"<[^>]*>", "", html)
    for told in (
        "Removing what Headwater pointed at helped",
        "121 of 160 found",
        "by chance 12.8",
        "broken",
        "1,840 rows",
    ):
        assert told in text
    assert "121 of 160 planted errors were among the rows removed; 12.8 expected by chance" in html


def test_a_trial_without_plants_seeds_or_queries_still_stands():
    trial = {
        "removed": 40,
        "arms": [{"name": "untouched", "accuracy": [0.9], "rows": 10}],
        "verdict": "no clear difference",
    }
    html = render_page(answers.empty_answer(), title="x", trial=trial)
    assert "No clear difference." in html
    assert "Planted" not in html and "one training an arm" in html


def test_hostile_names_in_a_trial_are_text():
    trial = answers.trial()
    trial["arms"][0]["name"] = trial["queries"][0]["text"] = '"><script>alert(1)</script>'
    trial["queries"][0]["label"] = trial["verdict"] = "<img src=x>"
    html = render_page(answers.empty_answer(), title="x", trial=trial)
    assert html.count("<script") == 1 and "<img" not in html
