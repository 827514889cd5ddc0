"""Pruned search finds what the full scan finds however rows are stored, and hands over to it when that is cheaper."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
import headwater.attribution.build
from attribution.conftest import make_run
from headwater.methods import pruning

QUERIES = ["the heron admires warm bread", "a quiet river sings", "bread"]


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headwater.attribution.build, "RANGE_ROWS", 16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Run:
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    return make_run(tmp_path_factory.mktemp("run"), models, tokenizer, _rows(40))


def _rows(count: int) -> list[dict[str, Any]]:
    """The last ten are twins of the first, so that there are ties."""
    rows = builders.rows(count - 10, seed=4)
    rows = [*rows, *(dict(row) for row in rows[:10])]
    return [{**row, "source": ["web", "book"][number % 2]} for number, row in enumerate(rows)]


def _both_sides(found: hw.Attributions) -> list[Any]:
    return [
        [(row.example.id, row.score, tuple(row.words)) for row in side]
        for answer in found
        for side in (answer.proponents, answer.opponents)
    ]


def _same(index: hw.Index, **options: Any) -> None:
    full, pruned = (index.query(QUERIES, search=search, show=False, **options) for search in ("full", "pruned"))
    assert _both_sides(pruned) == _both_sides(full)
    assert any(_both_sides(full)) and all(answer.touched is not None for answer in pruned)


def _grown(run: hw.Run, folder: Path, **storage: Any) -> hw.Index:
    """An index of which rows were removed and changed, and to which rows were added: segments with dead rows."""
    rows = _rows(40)
    hw.Index.build(run, folder, corpus=hw.Corpus.read(rows, name="rows"), show=False, **storage)
    changed = [{**row, "text": f"bread {row['text']}"} if number % 9 == 0 else row for number, row in enumerate(rows)]
    corpus = hw.Corpus.read([*changed[5:], *builders.rows(30, seed=9)], name="rows")
    index = hw.Index.build(run, folder, corpus=corpus, show=False, **storage)
    (member,) = index._members
    assert member.tokens is not None and member.tokens.living is not None
    assert member.tokens.manifest.rows > len(index.corpus) and len(member.tokens.manifest.ranges) > 3
    return index


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(
    "storage",
    [{}, {"dtype": "int8"}, {"dtype": "int8", "energy": 0.9}, {"dtype": "int4", "energy": 0.9}, {"dtype": "int4"}],
    ids=str,
)
def test_an_index_that_grew_is_searched_alike(trained: hw.Run, tmp_path: Path, storage: dict[str, Any], k: int) -> None:
    index = _grown(trained, tmp_path / "index", **storage)
    _same(index, k=k)
    _same(index, k=k, where={"exclude": [0, 7, 20]})
    if "energy" not in storage:
        _same(index, k=k, normalize="both")


@pytest.mark.parametrize("energy", [0.5, 0.99])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_index_of_the_strongest_gradients_is_searched_alike(
    trained: hw.Run, tmp_path: Path, dtype: Any, energy: float
) -> None:
    index = hw.Index.build(trained, tmp_path / "index", dtype=dtype, energy=energy, show=False)
    _same(index, k=4)
    _same(index, k=4, where={"source": "web"}, max_words=2)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pruned search seems to cost nothing: auto tries it on any index."""
    for name in ("_SMALL", "_LISTED", "_ROW", "_CALLS", "_SCATTERED"):
        monkeypatch.setattr(pruning, name, 0)
    return monkeypatch


def test_auto_prunes_where_it_is_cheaper(trained: hw.Run, tmp_path: Path, eager: pytest.MonkeyPatch) -> None:
    eager.setattr(pruning, "_MOST", 1.0)
    index = hw.Index.build(trained, tmp_path / "index", show=False)
    found = index.query(QUERIES, k=2, show=False)
    assert all(answer.touched is not None for answer in found)
    assert _both_sides(found) == _both_sides(index.query(QUERIES, k=2, search="full", show=False))


def test_auto_hands_over_to_the_full_scan_when_bounds_are_loose(
    trained: hw.Run, tmp_path: Path, eager: pytest.MonkeyPatch
) -> None:
    eager.setattr(pruning, "_MOST", 0.0)
    index = hw.Index.build(trained, tmp_path / "index", show=False)
    queries = ["?", *QUERIES]  # the first shares no word with any row: nothing is read for it
    full, found, asked_for = (
        index.query(queries, k=2, search=search, special_tokens=False, show=False)
        for search in ("full", "auto", "pruned")
    )
    assert [answer.touched is None for answer in found] == [False, True, True, True]
    assert _both_sides(found) == _both_sides(full) == _both_sides(asked_for)
    assert not any(answer.touched is None for answer in asked_for)  # whoever asks for it gets it
