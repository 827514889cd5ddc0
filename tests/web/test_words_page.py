"""The Words pages: strongest first, by label, searched; a word's own page; what is hostile stays text."""

from pathlib import Path

from fastapi.testclient import TestClient

import headwater as hw
from headwater.attribution.word_tables import word_table


def test_words_come_strongest_first_and_are_the_tables(client: TestClient, served: Path) -> None:
    index = hw.Index.open(served / "index")
    table = word_table(index, index.run.eval_corpus, show=False)
    for at, label in enumerate(table.labels):
        found = client.get("/api/words", params={"label": label}).json()
        assert found["count"] == len(table.words) and found["queries"] == table.queries[at]
        pushes = [abs(each["push"]) for each in found["words"]]
        assert pushes == sorted(pushes, reverse=True)
        for each in found["words"]:
            assert each["push"] == table.push[table.number(each["word"]), at]
    assert client.get("/api/words", params={"sort": "-rows"}).json()["words"][0]["rows"] == table.rows.max()
    one = client.get("/api/words", params={"text": table.words[0][:3].upper()}).json()
    assert table.words[0] in [each["word"] for each in one["words"]]


def test_a_words_page_leads_to_its_rows_and_queries(client: TestClient) -> None:
    first = client.get("/api/words").json()["words"][0]
    known = client.get("/api/word", params={"word": first["word"].upper()}).json()
    assert known["word"] == first["word"] and known["rows"] == first["rows"]
    assert sum(count for _, count in known["labels"]) == known["rows"]
    drawn = client.get("/word", params={"word": first["word"]})
    assert drawn.status_code == 200
    assert f'/corpus/{known["strongest"][0]["row"]}"' in drawn.text
    assert f"/why?row={known['queries'][0]['row']}" in drawn.text
    assert client.get("/words").status_code == 200


def test_words_that_are_not_there_and_hostile_ones_are_refused_as_text(client: TestClient) -> None:
    hostile = {"word": "<script>alert(1)</script>"}
    refused = client.get("/word", params=hostile, headers={"Accept": "text/html"})
    assert refused.status_code == 422 and "<script>alert" not in refused.text
    assert client.get("/api/word", params=hostile).status_code == 422
    assert client.get("/api/words", params={"label": "nobody"}).status_code == 422
    assert client.get("/api/words", params={"sort": "nobody"}).status_code == 422
    shown = client.get("/words", params={"text": "</td><script>x"})
    assert shown.status_code == 200 and "<script>x" not in shown.text
