"""A pruned search answers as the full scan does, word for word, under every option; what it cannot do it refuses."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.errors import UsageError

QUERIES = ["the heron admires warm bread", "a quiet river sings", "bread"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Index:
    """Sixty rows, the last twenty twins of others, at two checkpoints."""
    rows = builders.rows(40)
    for number, row in enumerate(rows := [*rows, *(dict(row) for row in rows[:20])]):
        row["source"] = ["web", "book"][number % 2]
    models = [builders.tiny_model("bert", tokenizer, seed=seed) for seed in (0, 1)]
    return hw.Index.build(make_run(tmp_path_factory.mktemp("pruned"), models, tokenizer, rows))


def _shown(found: hw.Attributions, *, percentiles: bool) -> list[dict[str, Any]]:
    """An answer but for what only a full scan knows."""
    answers = found.to_dict()["queries"]
    for answer in answers:
        answer["touched"] = None
        answer["summary"] |= {"push": None, "top_share": None}
        for row in (*answer["proponents"], *answer["opponents"]):
            row["percentile"] = row["percentile"] if percentiles else None
    return answers


@pytest.mark.parametrize("k", [1, 4, 60])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": "train"},
        {"normalize": "both", "max_words": 2},
        {"special_tokens": False},
        {"checkpoints": ("checkpoint-2",)},
        {"where": {"source": "web", "exclude": [0, 8]}},
    ],
    ids=str,
)
def test_both_searches_give_the_same_answer(index: hw.Index, options: dict[str, Any], k: int) -> None:
    full, pruned = (index.query(QUERIES, k=k, search=search, **options) for search in ("full", "pruned"))
    filtered = "where" in options
    assert _shown(pruned, percentiles=not filtered) == _shown(full, percentiles=not filtered)
    assert all(answer.proponents or answer.opponents for answer in pruned)
    for one, other in zip(full, pruned, strict=True):
        assert one.push is not None and one.touched is None
        assert other.push is None and other.touched is not None
        assert {row.percentile is None for row in (*other.proponents, *other.opponents)} <= {filtered}


def test_an_answer_says_what_its_search_read(index: hw.Index) -> None:
    found = index.query(QUERIES, k=1, search="pruned")
    facts = found.to_dict()["search"]
    each = [answer["touched"] for answer in found.to_dict()["queries"]]
    assert facts["pruned"] == len(QUERIES)
    assert facts["read_bytes"] == sum(touched["read_bytes"] for touched in each) > 0
    assert facts["share"] == facts["read_bytes"] / facts["payload_bytes"] <= 1
    assert index.query(QUERIES, k=1).to_dict()["search"] == {"pruned": 0}  # so few rows are scanned


def test_an_answer_of_a_pruned_search_can_be_shown(index: hw.Index, tmp_path: Path) -> None:
    found = index.query(QUERIES, k=2, where={"source": "web"}, search="pruned")
    found.save_html(tmp_path / "why.html")
    assert "None" not in (tmp_path / "why.html").read_text()
    assert found.to_pandas()["percentile"].isna().all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "bm25"}, "bm25"),
        ({"synonyms": True}, "synonyms"),
        ({"where": hw.Where(collapse=True)}, "collapse"),
    ],
)
def test_a_pruned_search_that_cannot_be_is_refused(index: hw.Index, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        index.query(QUERIES, search="pruned", **options)
    assert len(index.query(QUERIES, search="auto", **options)) == len(QUERIES)


def test_a_search_of_another_name_is_refused(index: hw.Index) -> None:
    with pytest.raises(UsageError, match="auto, full, pruned"):
        index.query(QUERIES, search="fast")  # type: ignore[arg-type]
