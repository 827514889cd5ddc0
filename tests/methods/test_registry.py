"""The registry: what there is, and errors that list it."""

import pytest

import headwater as hw
from headwater.errors import UsageError
from headwater.methods import all_methods, get_method
from methods.conftest import LABELS, QUERIES


def test_every_method_says_what_it_is_and_what_it_costs() -> None:
    names = [method.name for method in all_methods()]
    assert "tracin-we" in names and len(set(names)) == len(names)
    for method in all_methods():
        assert get_method(method.name) is method
        assert all((method.summary, method.needs, method.cost, method.words, method.paper))


def test_an_unknown_method_lists_the_choices_and_guesses_the_one_meant(index: hw.Index) -> None:
    with pytest.raises(UsageError, match=r"no method 'tracin_we'\. Did you mean 'tracin-we'\? There are: tracin-we"):
        index.scores(QUERIES, LABELS, method="tracin_we")
    with pytest.raises(UsageError, match=r"no method 'x'\. There are"):
        get_method("x")


def test_an_unknown_option_lists_those_of_the_method(index: hw.Index) -> None:
    for ask in (index.scores, index.query):
        with pytest.raises(UsageError, match=r"tracin-we has no option 'topk'\. It has: max_words, special_tokens"):
            ask(QUERIES, LABELS, topk=3)


def test_an_unknown_checkpoint_lists_those_of_the_index(index: hw.Index) -> None:
    with pytest.raises(UsageError, match=r"no checkpoint 'last'\. It has: checkpoint-1, checkpoint-2"):
        index.scores(QUERIES, LABELS, checkpoints=("last",))
