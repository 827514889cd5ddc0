"""Filters change which rows are shown, never a score; a filter that means nothing is an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.errors import UsageError

QUERY, LABEL = ["the heron admires warm bread"], ["good"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Index:
    """Twenty rows with a source and a year; rows 20..22 are row 0 again, row 23 is row 0 under the other label."""
    rows = builders.rows(20)
    other = {"good": "bad", "bad": "good"}
    rows += [dict(rows[0]) for _ in range(3)] + [{"text": rows[0]["text"], "label": other[rows[0]["label"]]}]
    for number, row in enumerate(rows):
        row |= {"source": ["web", "book", "it's"][number % 3], "year": 2000 + number % 2, "name": f"row-{number}"}
    model = builders.tiny_model("bert", tokenizer)
    columns = hw.Columns(id="name")
    run = make_run(tmp_path_factory.mktemp("where"), [model], tokenizer, rows, weights=(1.0,), columns=columns)
    return hw.Index.build(run, dtype="float32")


def _rows(answer: hw.Attribution) -> list[int]:
    return [influence.example.row for influence in (*answer.proponents, *answer.opponents)]


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ({"label": "good"}, lambda row: row["label"] == "good"),
        ({"source": "web"}, lambda row: row["source"] == "web"),
        ({"source": ["web", "it's"]}, lambda row: row["source"] != "book"),
        ({"year": 2001}, lambda row: row["year"] == 2001),
        ({"year": "2001", "label": "bad"}, lambda row: row["year"] == 2001 and row["label"] == "bad"),
        ({"exclude": ["row-3", "row-23"]}, lambda row: row["name"] not in ("row-3", "row-23")),
        ({"exclude": "row-3"}, lambda row: row["name"] != "row-3"),
        (hw.Where(label="bad", columns={"source": "book"}), lambda r: r["label"] == "bad" and r["source"] == "book"),
    ],
)
def test_only_rows_that_pass_are_shown_with_the_scores_they_have(where: Any, passes: Any, index: hw.Index) -> None:
    table = index.corpus.table.to_pylist()
    everything = {
        i.example.row: i for side in (index.query(QUERY, LABEL, k=24)[0],) for i in (*side.proponents, *side.opponents)
    }
    (answer,) = index.query(QUERY, LABEL, k=24, where=where)
    assert set(_rows(answer)) == {row for row in everything if passes(table[row])}
    for influence in (*answer.proponents, *answer.opponents):
        known = everything[influence.example.row]
        assert (influence.score, influence.percentile) == (known.score, known.percentile)


def test_a_short_list_holds_the_strongest_of_those_that_pass(index: hw.Index) -> None:
    scores = index.scores(QUERY, LABEL)[0]
    labels = np.array([example.label for example in index.corpus])
    for label in ("good", "bad"):
        (answer,) = index.query(QUERY, LABEL, k=2, where={"label": label})
        allowed = np.flatnonzero((labels == label) & (scores > 0))
        assert [i.example.row for i in answer.proponents] == allowed[np.argsort(-scores[allowed], kind="stable")][
            :2
        ].tolist()


def test_equal_rows_collapse_to_the_first_and_twins_under_another_label_stay(index: hw.Index) -> None:
    (plain,), (collapsed,) = (index.query(QUERY, LABEL, k=24, where=where) for where in (None, {"collapse": True}))
    assert {0, 20, 21, 22, 23} <= set(_rows(plain))
    assert set(_rows(plain)) - set(_rows(collapsed)) == {20, 21, 22}
    (odd,) = index.query(QUERY, LABEL, k=24, where={"collapse": True, "exclude": ["row-0", "row-20"]})
    assert {21, 23} <= set(_rows(odd)) and 22 not in _rows(odd)
    scores = {i.example.row: i.score for i in (*plain.proponents, *plain.opponents)}
    assert np.sign(scores[0]) == -np.sign(scores[23])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": "red"}, r"no column 'colour' to filter by\. It has: text, label, source, year, name"),
        ({"label": "goood"}, r"no row has 'goood' in column 'label'\. It has: bad, good\."),
        ({"source": ["web", "wbe"]}, r"no row has 'wbe' in column 'source'"),
        ({"exclude": ["row-99"]}, r"no row has the id 'row-99'"),
        ({"year": 2001, "exclude": [f"row-{n}" for n in range(1, 24, 2)]}, "no row passes all of these filters"),
    ],
)
def test_a_filter_that_means_nothing_is_an_error(where: dict[str, Any], message: str, index: hw.Index) -> None:
    with pytest.raises(UsageError, match=message):
        index.query(QUERY, LABEL, where=where)


def test_without_an_id_column_rows_are_excluded_by_number(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = builders.tiny_model("bert", tokenizer)
    index = hw.Index.build(make_run(tmp_path, [model], tokenizer, builders.rows(8), weights=(1.0,)))
    (answer,) = index.query(QUERY, LABEL, where={"exclude": [0, "5", np.int64(6)]})
    assert set(_rows(answer)) == {1, 2, 3, 4, 7}
    for wrong, message in (
        (["row-1"], "'row-1' is no row number"),
        ([-1], "-1 is no row number"),
        ([8], "rows 0 to 7"),
    ):
        with pytest.raises(UsageError, match=message):
            index.query(QUERY, LABEL, where={"exclude": wrong})
