"""The predictions page: filters, order and pages, against what the run's last checkpoint says by itself."""

import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from fastapi.testclient import TestClient

import headwater as hw
from headwater.training import predict


@pytest.fixture(scope="module")
def truth(served: Path) -> Any:
    """Texts, labels, what the model says, and losses: of the model itself, without the workbench."""
    run = hw.Run.open(served)
    assert run.eval_corpus is not None
    said = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, run.eval_corpus)
    texts = [example.text for example in run.eval_corpus]
    labels = [example.label for example in run.eval_corpus]
    assert 5 < (~said.correct).sum() < 115, "the fixture's model must be wrong here and there"
    return {"texts": texts, "true": labels, "said": list(said.predicted), "losses": said.losses}


def _all(client: TestClient, **wish: Any) -> tuple[int, list[dict[str, Any]]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    at = 1
    while True:
        told = client.get("/api/predictions", params={**wish, "at": at}).json()
        if not told["rows"]:
            return told["count"], found
        found += told["rows"]
        at += 1


def test_every_row_is_listed_once_with_the_run_s_own_predictions(client: TestClient, truth: Any) -> None:
    count, rows = _all(client)
    assert count == len(rows) == 120
    assert [row["row"] for row in rows] == np.argsort(-truth["losses"], kind="stable").tolist()
    for row in rows:
        number = row["row"]
        assert row["texts"] == [truth["texts"][number]]
        assert (row["true"], row["said"]) == (truth["true"][number], truth["said"][number])
        assert row["wrong"] == (truth["true"][number] != truth["said"][number])
        assert row["loss"] == pytest.approx(float(truth["losses"][number]), rel=1e-5)


def test_filters_keep_what_they_name_and_nothing_else(client: TestClient, truth: Any) -> None:
    numbers = range(120)

    def rows(**wish: str) -> set[int]:
        count, found = _all(client, **wish)
        assert count == len(found)
        return {row["row"] for row in found}

    assert rows(which="wrong") == {n for n in numbers if truth["true"][n] != truth["said"][n]}
    assert rows(true="good") == {n for n in numbers if truth["true"][n] == "good"}
    assert rows(said="bad") == {n for n in numbers if truth["said"][n] == "bad"}
    assert rows(true="bad", said="good") == {
        n for n in numbers if (truth["true"][n], truth["said"][n]) == ("bad", "good")
    }
    assert rows(text="HERON") == {n for n in numbers if "heron" in truth["texts"][n]} != set()
    assert rows(true="nobody") == set() and rows(text="<script>") == set()


@pytest.mark.parametrize(("sort", "sign"), [("loss", 1), ("-loss", -1)])
def test_rows_are_sorted_by_loss(client: TestClient, truth: Any, sort: str, sign: int) -> None:
    _, rows = _all(client, sort=sort)
    assert [row["row"] for row in rows] == np.argsort(sign * truth["losses"], kind="stable").tolist()


def test_rows_are_sorted_by_number(client: TestClient) -> None:
    assert [row["row"] for row in _all(client, sort="row")[1]] == list(range(120))
    assert [row["row"] for row in _all(client, sort="-row")[1]] == list(range(119, -1, -1))


def _links(page: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', page)]


def test_the_page_shows_fifty_rows_and_leads_to_the_next_with_all_filters_kept(client: TestClient) -> None:
    page = client.get("/predictions", params={"sort": "row", "text": "the"}).text
    rows = [int(row) for row in re.findall(r'href="/why\?row=(\d+)"', page)]
    told = client.get("/api/predictions", params={"sort": "row", "text": "the"}).json()
    assert rows == [row["row"] for row in told["rows"]] and len(rows) == 50
    (following,) = {link for link in _links(page) if "at=2" in link}
    assert parse_qs(urlsplit(following).query) == {"sort": ["row"], "text": ["the"], "at": ["2"]}
    after = client.get(following).text
    assert not set(rows) & {int(row) for row in re.findall(r'href="/why\?row=(\d+)"', after)}


def test_each_number_of_the_matrix_leads_to_just_so_many_rows(client: TestClient, truth: Any) -> None:
    page = client.get("/predictions?which=wrong").text
    cells = re.findall(r'<td class="number [a-z]*"[^>]*><a href="([^"]*)"[^>]*>([\d,]+)</a>', page)
    assert len(cells) == 4
    pairs = list(zip(truth["true"], truth["said"], strict=True))
    for link, shown in cells:
        asked = {key: value[0] for key, value in parse_qs(urlsplit(unescape(link)).query).items()}
        count, _ = _all(client, **asked)
        assert count == int(shown) == pairs.count((asked["true"], asked["said"]))


def test_beyond_the_last_page_is_an_empty_list_and_not_a_fault(client: TestClient) -> None:
    assert client.get("/predictions?at=999999").status_code == 200
    assert "No row is like that" in client.get("/predictions", params={"text": "no such text"}).text
