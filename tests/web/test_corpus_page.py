"""The corpus and its rows: order, filters and pages; a row's page against the index's own scores."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import headwater as hw


@pytest.fixture(scope="module")
def index(served: Path) -> hw.Index:
    return hw.Index.open(served / "index")


def test_every_row_is_listed_by_self_influence(client: TestClient, index: hw.Index) -> None:
    found = [client.get("/api/corpus", params={"at": at}).json() for at in (1, 2, 3)]
    assert [len(each["rows"]) for each in found] == [50, 10, 0] and found[0]["count"] == 60
    rows = [row for each in found for row in each["rows"]]
    values = index.self_influence()
    assert [row["row"] for row in rows] == np.argsort(-values, kind="stable").tolist()
    np.testing.assert_allclose([row["self_influence"] for row in rows], np.sort(values)[::-1])
    assert all(0 <= row["same"] <= 1 for row in rows) and sum(row["hubs"] for row in rows) == 600


@pytest.mark.parametrize("name", ["row", "self", "same", "hubs"])
def test_rows_are_sorted_both_ways(client: TestClient, name: str) -> None:
    key = {"self": "self_influence"}.get(name, name)
    for sign in ("", "-"):
        values = [row[key] for row in client.get("/api/corpus", params={"sort": sign + name}).json()["rows"]]
        assert values == sorted(values, reverse=sign == "-")


def test_filters_keep_what_they_name(client: TestClient, index: hw.Index) -> None:
    told = client.get("/api/corpus", params={"label": "good", "text": "RIVER", "sort": "row"}).json()
    expected = [row for row, example in enumerate(index.corpus) if example.label == "good" and "river" in example.text]
    assert [row["row"] for row in told["rows"]] == expected and expected
    assert "No row is like that" in client.get("/corpus", params={"text": "no such text"}).text


def test_a_row_s_page_tells_whom_it_helps_and_hurts(client: TestClient, index: hw.Index) -> None:
    run = index.run
    assert run.eval_corpus is not None
    scores = index.scores(run.eval_corpus, [example.label for example in run.eval_corpus])[:, 7]
    told: dict[str, Any] = client.get("/api/corpus/7").json()
    order = np.argsort(-scores, kind="stable")
    assert [each["row"] for each in told["helps"]] == [int(each) for each in order[:5] if scores[each] > 0]
    assert [each["row"] for each in told["hurts"]] == [int(each) for each in order[::-1][:5] if scores[each] < 0]
    np.testing.assert_allclose(told["helps"][0]["score"], scores.max(), rtol=1e-5)
    most = int(np.argmax(np.abs(scores)))
    query = run.eval_corpus.take([most])
    found = index.query(query, [query[0].label], k=60)[0]
    row = next(each for each in (*found.proponents, *found.opponents) if each.example.row == 7)
    pairs = sorted((pair for pair in row.words if not pair.special), key=lambda pair: -abs(pair.score))[:6]
    expected = [(str(pair.train), str(pair.query), pytest.approx(pair.score, rel=1e-4)) for pair in pairs]
    assert [(pair["train"], pair["query"], pair["score"]) for pair in told["words"]] == expected
    assert len(told["nearest"]) == 10 and told["asked"] == 120


def test_pages_show_it_and_link_to_why_and_neighbours(client: TestClient) -> None:
    listed = client.get("/corpus").text
    assert "aria-current=page" in listed and len(re.findall(r'href="/corpus/\d+"', listed)) == 50
    shown = client.get("/corpus/7").text
    assert "Training row 7" in shown and "Helps" in shown and "Nearest rows" in shown
    assert re.search(r'href="/why\?row=\d+"', shown) and 'href="/corpus/8"' in shown


def test_a_row_that_is_not_there_is_told(client: TestClient) -> None:
    for place in ("/corpus/60", "/api/corpus/60"):
        answer = client.get(place)
        assert answer.status_code == 422 and "there is no row 60" in answer.text
    assert client.get("/api/corpus/x").status_code == 422
    assert client.get("/api/corpus", params={"sort": "size"}).status_code == 422
