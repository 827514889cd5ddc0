"""Words of a query over all rows: sums of the pairs that answers show, and together all scores."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from cli.conftest import TRAIN, headwater, write_rows
from headwater.attribution.query_words import query_words
from headwater.errors import StoreError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    folder = tmp_path_factory.mktemp("query-words")
    train = write_rows(folder / "train.jsonl", builders.rows(50, seed=1))
    called = headwater("train", "--data", train, *TRAIN, "--out", folder / "run")
    assert called.code == 0, called.stderr
    called = headwater("index", folder / "run")
    assert called.code == 0, called.stderr
    return hw.Index.open(folder / "run" / "index")


@pytest.mark.parametrize("text", ["the heron loves warm bread and the heron", builders.rows(1, seed=9)[0]["text"]])
@pytest.mark.parametrize("label", ["good", "bad"])
def test_pushes_are_sums_of_pairs_and_add_up_to_all_scores(index: hw.Index, text: str, label: str) -> None:
    found = query_words(index, [text], label)
    answer = index.query([text], [label], len(index), show=False).to_dict()["queries"][0]
    pairs: dict[str, float] = defaultdict(float)
    for row in [*answer["proponents"], *answer["opponents"]]:
        for pair in row["words"]:
            pairs["" if pair.get("special") else pair["query"].casefold()] += pair["score"]
    told: dict[str, float] = defaultdict(float)
    for each in found.words:
        told[each.word.casefold()] += each.push
    scale = max(map(abs, pairs.values()))
    assert found.special == pytest.approx(pairs.pop("", 0.0), abs=1e-5 * scale)
    assert {word for word, push in told.items() if push} == set(pairs)
    for word, push in pairs.items():
        assert told[word] == pytest.approx(push, abs=1e-5 * scale), word
    scores = index.scores([text], [label], show=False).astype(np.float64)
    assert sum(told.values()) + found.special == pytest.approx(scores.sum(), rel=1e-4, abs=1e-9)


def test_an_index_without_token_gradients_is_an_error(index: hw.Index, tmp_path: Path) -> None:
    hw.Index.build(index.run, tmp_path / "other", method="representation-cosine", show=False)
    with pytest.raises(StoreError, match="token gradients"):
        query_words(hw.Index.open(tmp_path / "other"), ["the heron"], "good")
