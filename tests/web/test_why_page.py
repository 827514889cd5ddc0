"""The Why? page: each answer is the index's own; what is explained, by which methods, and what marked rows hold."""

import json
import re
import shlex
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from fastapi.testclient import TestClient

import headwater as hw
from cli.conftest import headwater
from headwater.web.why_view import ROWS_AT


@pytest.fixture(scope="module")
def index(served: Path) -> hw.Index:
    return hw.Index.open(served / "index")


def _cards(page: str) -> list[tuple[int, int]]:
    """The method's number and the training row of each card, in their order."""
    return [(int(number), int(row)) for number, row in re.findall(r"id=q(\d)[ta](\d+)", page)]


def _rows(answer: Any) -> list[int]:
    return [part.example.row for side in (answer.proponents, answer.opponents) for part in side]


def _links(page: str, inside: str) -> list[str]:
    (part,) = re.findall(rf"<nav class={inside}.*?</nav>", page, re.S)
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', part)]


@pytest.mark.parametrize("method", ["tracin-we", "bm25"])
def test_the_rows_shown_are_those_that_the_index_gives(client: TestClient, index: hw.Index, method: str) -> None:
    assert index.run.eval_corpus is not None
    truth = index.query(index.run.eval_corpus.take([4]), None, 7, method=method, show=False)[0]
    page = client.get("/why", params={"row": 4, "k": 7, "method": method}).text
    assert _cards(page) == [(1, row) for row in _rows(truth)]
    assert all(f'href="{ROWS_AT}{row}"' in page for row in _rows(truth)) == bool(ROWS_AT)


def test_the_api_gives_what_the_command_line_prints(client: TestClient, index: hw.Index, served: Path) -> None:
    told = client.get("/api/why", params={"text": "the heron hates warm bread", "label": "good", "k": 3}).json()
    called = headwater("query", served, "--text", "the heron hates warm bread", "--label", "good", "-k", 3, "--json")
    assert told["queries"] == called.json["queries"] and told["method"] == "tracin-we"


def test_the_command_shown_gives_the_same_answer_again(client: TestClient) -> None:
    asked = {"text": "it's a 'quiet' child & \"bread\"", "k": 4, "label": "bad", "method": "bm25"}
    page = client.get("/why", params=asked).text
    (command,) = re.findall(r"<code>(headwater query .*?)</code>", page, re.S)
    words = shlex.split(unescape(re.sub("<[^>]*>", "", command)))
    again = headwater(*words[1:], "--json").json
    assert again["queries"] == client.get("/api/why", params=asked).json()["queries"]


def test_two_methods_stand_side_by_side_each_with_its_own_rows(client: TestClient, index: hw.Index) -> None:
    assert index.run.eval_corpus is not None
    page = client.get("/why?row=4&k=5&method=tracin-we&method=bm25").text
    for number, method in enumerate(("tracin-we", "bm25"), 1):
        truth = index.query(index.run.eval_corpus.take([4]), None, 5, method=method, show=False)[0]
        assert [row for at, row in _cards(page) if at == number] == _rows(truth)
    assert page.count("<section class=query") == 2
    assert client.get("/why?row=4&method=bm25&method=bm25").text.count("<section class=query") == 1
    assert client.get("/why?row=4&method=bm25&method=").text.count("<section class=query") == 1


def test_only_methods_that_the_index_can_answer_by_are_offered(client: TestClient, index: hw.Index) -> None:
    page = client.get("/why?row=0").text
    (choices,) = re.findall(r"<label>Method <select name=method>(.*?)</select>", page)
    offered = re.findall(r">([a-z0-9-]+)</option>", choices)
    assert offered == [method.name for method in index.methods]
    assert "tracin-we" in offered and "bm25" in offered and "trackstar" not in offered
    for name in offered:
        assert client.get("/why", params={"row": 0, "method": name}).status_code == 200, name
    refused = client.get("/api/why", params={"row": 0, "method": "trackstar"})
    assert refused.status_code == 409 and "headwater index" in refused.json()["error"]


def test_a_method_is_offered_once_its_index_is_built(copied_run: Path) -> None:
    run = hw.Run.open(copied_run)
    hw.Index.build(run, method="tracin-last", show=False)
    names = [method.name for method in hw.Index.of(run).methods]
    assert "tracin-last" in names and "tracin" in names and "tracin-second" not in names and "less" not in names


def test_what_it_says_or_the_true_label_is_explained_as_the_links_say(client: TestClient) -> None:
    told = client.get("/api/predictions?which=wrong").json()["rows"]
    row = told[0]
    page = client.get(f"/why?row={row['row']}&method=bm25&k=5").text
    said, true = _links(page, "explains")
    assert parse_qs(urlsplit(true).query) == {
        "row": [str(row["row"])],
        "explain": ["label"],
        "method": ["bm25"],
        "k": ["5"],
    }
    for link, label in ((said, row["said"]), (true, row["true"])):
        assert client.get("/api" + link).json()["queries"][0]["label"] == label
    assert row["said"] != row["true"]


def test_each_label_of_a_typed_text_can_be_explained(client: TestClient) -> None:
    page = client.get("/why?text=warm+bread").text
    said, *labels = _links(page, "explains")
    assert client.get("/api" + said).json()["queries"][0]["label_source"] == "predicted"
    assert [client.get("/api" + link).json()["queries"][0]["label"] for link in labels] == ["bad", "good"]


def test_the_arrows_walk_the_wrong_predictions_worst_first(client: TestClient) -> None:
    wrong = [row["row"] for row in client.get("/api/predictions?which=wrong").json()["rows"]]
    link, walked = f"/why?row={wrong[0]}&k=3", []
    for number in range(1, 4):
        page = client.get(link).text
        assert f"{number} of " in page
        walked.append(int(parse_qs(urlsplit(link).query)["row"][0]))
        link = _links(page, "steps-of")[-1]
        assert "k=3" in link
    assert walked == wrong[:3]
    right = client.get("/api/predictions?sort=loss").json()["rows"][0]
    assert not right["wrong"] and "class=steps-of" not in client.get(f"/why?row={right['row']}").text


def test_what_marked_rows_hold_of_the_push_is_their_share_of_all_scores(client: TestClient, index: hw.Index) -> None:
    text = "the heron loves warm bread ."
    scores = index.scores([text], ["good"], show=False)[0].astype(np.float64)
    rows = [int(scores.argmax()), int(scores.argmin()), 3]
    told = client.get("/api/why/removal", params={"text": text, "label": "good", "marked": [*rows, rows[0]]}).json()
    theirs = scores[sorted(set(rows))]
    assert told["rows"] == sorted(set(rows)) and told["scores"] == pytest.approx(theirs.tolist())
    assert told["toward"] == pytest.approx(theirs[theirs > 0].sum() / scores[scores > 0].sum())
    assert told["away"] == pytest.approx(theirs[theirs < 0].sum() / scores[scores < 0].sum())
    everything = client.get("/api/why/removal", params={"text": text, "marked": list(range(60))}).json()
    assert everything["toward"] == everything["away"] == pytest.approx(1)


class _Form(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [value for key, value in attrs if key == "name" and value]
        self.names += names if tag in ("input", "select", "textarea") else []


def test_without_a_question_a_form_asks_for_one(client: TestClient) -> None:
    page = client.get("/why").text
    assert _Form(page).names == ["text", "label"] and "<section class=query" not in page


def test_a_text_that_begins_with_a_line_break_keeps_it(client: TestClient) -> None:
    page = client.get("/why", params={"text": "\nwarm bread"}).text
    assert ">\n\nwarm bread</textarea>" in page  # HTML drops the first one


def test_the_rail_tells_of_all_rows_and_of_grades(
    served: Path, client: TestClient, index: hw.Index, copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    text = "the heron loves warm bread"
    told = client.get("/api/why/rail", params={"text": text, "label": "good"}).json()
    scores = index.scores([text], ["good"], show=False)[0].astype(np.float64)
    assert told["rows"] == len(scores) and told["positive"] == int((scores > 0).sum())
    ordered = np.sort(scores)[::-1]
    assert all(score == pytest.approx(ordered[rank - 1]) for rank, score in told["curve"])
    assert sum(each["push"] for each in told["words"]) + told["special_tokens"] == pytest.approx(scores.sum(), rel=1e-4)
    assert told["grades"] == [] and len(told["checkpoints"]) == len(index.run.checkpoints)
    other = client.get("/api/why/rail", params={"text": text, "method": "bm25"}).json()
    assert other["words"] == [] and other["curve"]
    (copied_run / "evaluation").mkdir()
    result = {"method": "tracin-we", "metric": "lds", "value": 0.4, "low": 0.3, "high": 0.5}
    saved = {"columns": [{"name": "lds", "ceiling": {"highest": 0.8}}], "results": [result]}
    (copied_run / "evaluation" / "evaluation.json").write_text(json.dumps(saved))
    (grade,) = client_of(copied_run).get("/api/why/rail", params={"text": text}).json()["grades"]
    assert grade == {"metric": "lds", "value": 0.4, "low": 0.3, "high": 0.5, "ceiling": 0.8}


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("tracin-we/normalize=both", {"normalize": "both"}),
        ("tracin-we/special-tokens=false/max-words=3", {"special_tokens": False, "max_words": 3}),
        ("tracin-we/synonyms=true", {"synonyms": True}),
    ],
)
def test_options_of_a_method_stand_in_the_address_and_in_the_command(
    client: TestClient, index: hw.Index, spec: str, options: dict[str, Any]
) -> None:
    text = "the heron loves warm bread"
    told = client.get("/api/why", params={"text": text, "label": "good", "method": spec}).json()
    found = index.query([text], ["good"], show=False, **options).to_dict()
    assert told["queries"][0]["proponents"] == json.loads(json.dumps(found["queries"][0]["proponents"]))
    page = client.get("/why", params={"text": text, "label": "good", "method": ["tracin-we", spec]})
    assert page.status_code == 200 and f"<option selected>{spec}</option>" in page.text
    command = shlex.split(unescape(re.findall(r"<code>(headwater query[^<]*)</code>", page.text)[1]))
    again = headwater(*command[1:], "--json")
    assert again.code == 0, again.stderr
    assert json.loads(again.stdout)["queries"][0]["proponents"] == told["queries"][0]["proponents"]


def test_options_that_are_not_there_are_refused(client: TestClient) -> None:
    for spec, said in (("tracin-we/nobody=1", "nobody"), ("tracin-we/normalize", "option"), ("bm25/x=1", "x")):
        refused = client.get("/api/why", params={"text": "the heron", "method": spec})
        assert refused.status_code == 422 and said in refused.json()["error"]


def test_a_card_is_drawn_by_place_or_refused_with_a_reason(client: TestClient) -> None:
    asked = {"text": "the heron and the river avoids the noisy mill", "k": 5}
    (query,) = client.get("/api/why", params=asked).json()["queries"]
    shown = [part["example"] for side in ("proponents", "opponents") for part in query[side]]
    row, absent = shown[0], min(set(range(60)) - set(shown))
    assert f"t{row}" in client.get("/why/card", params={**asked, "opened": row}).text
    for wrong, status, said in (
        ({"opened": row, "text": ""}, 422, "Give a row, or a text"),
        ({}, 422, "Give the row to open"),
        ({"opened": row, "method": "bm25"}, 422, "tracin-we among the methods"),
        ({"opened": row, "method": "tracin-we/normalize=both"}, 422, "tracin-we among the methods"),
        ({"opened": absent}, 404, "not among the rows"),
        ({"opened": 10_000}, 422, "there is no row 10,000"),
    ):
        refused = client.get("/why/card", params={**asked, **wrong})
        assert refused.status_code == status and said in refused.json()["error"], (wrong, refused.text)
