"""Fact tracing in the table: rows with the query's value are right; an oracle finds them, and a page shows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from headwater.errors import DataError, UsageError
from headwater.runs import CausalLM, Corpus, Run
from headwater.training import TrainSettings, train
from language.texts import PAIR_COLUMNS, lm_tokenizer, pair_rows, tiny_lm

FACTS = [3, 1, 4, 1, 5, 9, 2, 6, None, 3, 1, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rows = [row | {"fact": fact} for row, fact in zip(builders.rows(len(FACTS)), FACTS, strict=True)]
    settings = TrainSettings(model="textcnn", epochs=1, batch_size=8, max_length=16, checkpoints=1, device="cpu")
    return train(Corpus.read(rows), hw.Classification(), tmp_path_factory.mktemp("facts") / "r", settings)


@pytest.fixture(scope="module")
def queries() -> Corpus:
    rows = builders.rows(4, seed=5)
    return Corpus.read([row | {"fact": fact} for row, fact in zip(rows, [1, 3, None, 7], strict=True)], name="asked")


def oracle() -> np.ndarray:
    """The second right row of each fact first, then the first, then a wrong one."""
    scores = np.zeros((4, len(FACTS)))
    scores[0, [3, 1, 10]] = [3.0, 2.0, 1.0]
    scores[1, [9, 0]] = [2.0, 1.0]
    return scores


def test_an_oracle_has_mrr_one_and_a_query_without_a_right_row_no_value(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    late = np.tile(np.arange(len(FACTS), dtype=float), (4, 1))  # the last row first: 1 at place 2, 3 at place 3
    given = {"oracle": oracle(), "negative": -oracle(), "late": late}
    made = hw.evaluate(run, [], ["facts"], queries, out=tmp_path, scores=given, fact_column="fact", k=2)
    assert made.retrains == 0
    assert made.cell("mrr", "oracle").value == 1.0 and made.cell("mrr", "oracle").queries == 2
    assert made.cell("hit@2", "oracle").value == 1.0
    assert made.cell("recall@2", "oracle").value == pytest.approx((2 / 3 + 1) / 2)
    assert made.cell("precision@2", "oracle").value == 1.0
    assert made.cell("mrr", "negative").value == pytest.approx((1 / 10 + 1 / 11) / 2)
    assert made.cell("mrr", "late").value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert made.cell("precision@2", "late").value == pytest.approx(1 / 4)
    assert "2 of 4 queries" in made.column("mrr").protocol
    assert "2 of 4 queries have no value" in made.cell("mrr", "oracle").notes[0]
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["per_query"]["mrr"]["late"] == [0.5, pytest.approx(1 / 3), None, None]
    page = (tmp_path / "evaluation.html").read_text()
    assert ">facts<" in page and repr(made.cell("mrr", "late").value) in page
    assert "recall@2,late," in (tmp_path / "evaluation.csv").read_text()


def test_facts_are_graded_where_the_column_is_named_and_nothing_else_is_said(
    run: Run, queries: Corpus, tmp_path: Path
) -> None:
    made = hw.evaluate(run, ["bm25"], ["facts", "hubness"], queries, out=tmp_path, fact_column="fact", baselines=False)
    assert [one.column.name for one in made.columns] == ["mrr", "hit@10", "recall@10", "precision@10", "distinct rows"]


def test_facts_of_a_language_model(tmp_path: Path) -> None:
    tiny_lm("llama").save_pretrained(tmp_path / "base")
    lm_tokenizer().save_pretrained(tmp_path / "base")
    rows = [row | {"fact": f"f{number % 5}"} for number, row in enumerate(pair_rows())]
    settings = TrainSettings(model=str(tmp_path / "base"), epochs=1, batch_size=4, device="cpu")
    corpus = Corpus.read(rows, PAIR_COLUMNS)
    trained = train(corpus, CausalLM(max_length=32), tmp_path / "r", settings)
    right = np.array([[row["fact"] == f"f{query}" for row in rows] for query in range(3)], dtype=float)
    asked = corpus.take(range(3))
    made = hw.evaluate(trained, [], ["facts"], asked, out=tmp_path / "out", scores={"key": right}, fact_column="fact")
    assert made.methods == ["key", "bm25", "random"]
    assert made.cell("mrr", "key").value == made.cell("recall@10", "key").value == 1.0
    assert made.cell("mrr", "random").value < 1.0
    with pytest.raises(UsageError, match="counts right answers, which needs classes"):
        hw.evaluate(trained, ["bm25"], ["filtering"], asked, out=tmp_path / "x", test=asked)


@pytest.mark.parametrize(
    ("column", "message"), [("fakt", r"has no column 'fakt'"), ("text", "no query has a value that a training row has")]
)
def test_a_column_that_fits_nothing_is_refused(
    run: Run, queries: Corpus, tmp_path: Path, column: str, message: str
) -> None:
    strange = Corpus.read([{"text": "unheard of", "label": "good", "fact": 1}], name="asked")
    with pytest.raises(DataError, match=message):
        hw.evaluate(run, ["bm25"], ["facts"], strange, out=tmp_path / "x", fact_column=column)
    with pytest.raises(UsageError, match="name the column of corpus and queries"):
        hw.evaluate(run, ["bm25"], ["facts"], queries, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
