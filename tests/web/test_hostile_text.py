"""Hostile texts are shown as texts: in held-out rows, training rows, labels of links, and what a user types."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import builders
from cli.conftest import TRAIN, headwater, write_rows

HOSTILE = {
    "script": "<script>alert(1)</script> the heron loves warm bread .",
    "attribute": '" onmouseover="alert(1)" x=\' the baker',
    "link": "javascript:alert(1) data:text/html,<b>x</b> the river",
    "closing": "</textarea></script></title><img src=x onerror=alert(1)> the mill",
    "entity": "&lt;b&gt; &amp;amp; &#60;i&#62; bread",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} the miller",
    "zero-width": "warm\u200b bread\u2060 \ufeff the\u00ad child",
    "rtl": "\u0634\u062c\u0631\u0629 \u05e9\u05dc\u05d5\u05dd the heron",
    "override": "the \u202egnirps\u202c rain \u2066x\u2069",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 warm \U0001f3f3\ufe0f\u200d\U0001f308 bread",
    "long-word": "x" * 20_000,
    "huge": "the heron loves warm bread . " * 1000,
}


class Reader(HTMLParser):
    """Tags that a browser would make of a page, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def _must_be_text(page: str, text: str) -> None:
    found = Reader(page)
    assert "img" not in found.tags
    assert all("alert" not in page_script for page_script in re.findall(r"<script[^>]*>(.*?)</script>", page, re.S))
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [
        value
        for name, value in found.attributes
        if name in ("href", "src", "action") and not value.startswith(("/", "#"))
    ]
    words = "".join(text.split())[:200]
    assert words in "".join(found.text.split())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and evaluated on hostile texts."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": text, "label": "good" if at % 2 else "bad"} for at, text in enumerate(HOSTILE.values())]
    train = write_rows(folder / "train.jsonl", rows + builders.rows(12))
    held = write_rows(folder / "held.jsonl", rows)
    called = headwater("train", "--data", train, "--eval", held, *TRAIN, "--epochs", 1, "--out", folder / "run")
    assert called.code == 0, called.stderr
    assert headwater("index", folder / "run").code == 0
    return folder / "run"


@pytest.fixture
def hostile_client(hostile: Path, client_of: Callable[[Path], TestClient]) -> TestClient:
    return client_of(hostile)


def test_held_out_rows_are_listed_as_text(hostile_client: TestClient) -> None:
    page = hostile_client.get("/predictions?sort=row").text
    for text in HOSTILE.values():
        _must_be_text(page, text)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_held_out_row_and_the_rows_that_taught_it_are_text(hostile_client: TestClient, kind: str) -> None:
    row = list(HOSTILE).index(kind)
    answer = hostile_client.get("/why", params={"row": row, "k": 20, "method": ["tracin-we", "bm25"]})
    assert answer.status_code == 200
    _must_be_text(answer.text, HOSTILE[kind])


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_user_types_is_text_wherever_it_is_typed(client: TestClient, kind: str) -> None:
    text = HOSTILE[kind]
    answer = client.get("/why", params={"text": text})
    assert answer.status_code == 200
    _must_be_text(answer.text, text)
    short = text[:900]
    for name in ("text", "true", "said"):
        page = client.get("/predictions", params={name: short})
        assert page.status_code == 200
        found = Reader(page.text)
        assert "img" not in found.tags
        assert not [key for key, _ in found.attributes if key.startswith("on")]
    for path, params in (
        ("/why", {"text": "bread", "label": text}),
        ("/why", {"text": "bread", "method": short[:100]}),
        ("/nowhere/" + short[:50].replace("/", ""), {}),
    ):
        refused = client.get(path, params=params, headers={"Accept": "text/html"})
        assert 400 <= refused.status_code < 500
        found = Reader(refused.text)
        assert "img" not in found.tags and "Traceback" not in refused.text
        assert not [key for key, _ in found.attributes if key.startswith("on")]


@pytest.mark.parametrize("raw", ["%ED%A0%80", "%FF", "%C3%28", "%ED%B0%80%ED%A0%80"])
def test_what_is_no_text_becomes_the_replacement_character_and_the_page_says_so(client: TestClient, raw: str) -> None:
    page = client.get(f"/why?text=warm+{raw}+bread").text
    assert "warm \ufffd" in page and "Replaced." in page and "U+FFFD" in page
    told = client.get(f"/api/why?text=warm+{raw}+bread").json()
    assert told["queries"][0]["text"].startswith("warm \ufffd")
    assert "Replaced." not in client.get("/why?text=warm+bread").text


def test_a_nul_becomes_the_replacement_character_too(client: TestClient) -> None:
    page = client.get("/why?text=warm%00bread").text
    assert "\0" not in page and "warm\ufffdbread" in page and "Replaced." in page


def test_a_lone_surrogate_in_a_corpus_is_an_error_with_row_and_column(tmp_path: Path) -> None:
    rows = [*builders.rows(4), {"text": "warm \ud800 bread", "label": "good"}]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    message = headwater("train", "--data", data, *TRAIN, "--out", tmp_path / "run").error
    assert "5" in message and "text" in message and "surrogate" in message


def test_a_text_over_the_limit_is_refused_with_a_sentence(client: TestClient) -> None:
    answer = client.get("/api/why", params={"text": "x" * 50_001})
    assert answer.status_code == 422 and "50000" in answer.json()["error"]
