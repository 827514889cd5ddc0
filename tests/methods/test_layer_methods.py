"""Every method over layer gradients on a tiny run: answers are sorted, exact, and made of words that add up."""

import numpy as np
import pytest

import headwater as hw
from headwater.gradients.layers import Projector
from headwater.methods import all_methods
from methods.conftest import LABELS, QUERIES

NAMES = [method.name for method in all_methods() if method.need == "layers" and method.scale == "none"] + ["trackstar"]

POOLED = ("tracin-last", "tracin-second")
"""Their layers see a text as a whole: they have no words to show."""


@pytest.fixture(scope="module")
def layered(run: hw.Run, tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    return hw.Index.build(run, tmp_path_factory.mktemp("layered"), method="tracin", projector=Projector(dim=4))


def _options(name: str) -> dict[str, bool]:
    return {"second_moments": False} if name == "trackstar" else {}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_holds_the_ends_of_the_scores_and_words_that_add_up(name: str, layered: hw.Index) -> None:
    scores = layered.scores(QUERIES, LABELS, method=name, **_options(name))
    assert np.isfinite(scores).all() and (np.ptp(scores, axis=1) > 0).all()
    for number, item in enumerate(layered.query(QUERIES, LABELS, k=3, method=name, **_options(name))):
        wanted = sorted(scores[number][scores[number] > 0])[::-1][:3]
        assert [part.score for part in item.proponents] == pytest.approx(wanted, rel=1e-3)
        for part in (*item.proponents, *item.opponents):
            assert part.score == pytest.approx(float(scores[number, part.example.row]), rel=1e-3)
            words = sum(pair.score for pair in part.words)
            assert words == (pytest.approx(part.score, rel=1e-9) if name not in POOLED else 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_queries_beside_it(name: str, layered: hw.Index) -> None:
    # TrackStar alone looks at what queries share: without the mix it is as the others.
    options = {"second_moments": False, "mix": 0.0} if name == "trackstar" else {}
    together = layered.query(QUERIES, LABELS, k=3, method=name, **options)
    for number, item in enumerate(together):
        alone = layered.query(QUERIES[number : number + 1], LABELS[number : number + 1], k=3, method=name, **options)[0]
        for one, other in zip(item.proponents, alone.proponents, strict=True):
            assert one.example.row == other.example.row and one.score == pytest.approx(other.score, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_layer_of_a_set_can_be_asked_by_itself(name: str, layered: hw.Index) -> None:
    scores = layered.scores(QUERIES, LABELS, method=name, layers="bert.pooler.dense", **_options(name))
    assert np.isfinite(scores).all() and (scores != 0).any()
