"""The pages over a language model: texts by loss, completions in whole and in part."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import headwater as hw
from language.texts import lm_tokenizer, run_of, tiny_lm


@pytest.fixture
def talking(spoken: Path, client_of: Callable[[Path], TestClient]) -> TestClient:
    return client_of(spoken)


def test_texts_are_listed_by_loss_a_token(talking: TestClient) -> None:
    told = talking.get("/api/predictions").json()
    losses = [row["loss"] for row in told["rows"]]
    assert len(losses) == 6 and losses == sorted(losses, reverse=True)
    assert {row["said"] for row in told["rows"]} == {None}
    page = talking.get("/predictions").text
    assert "perplexity" in page and "<table class=confusion" not in page


def test_words_of_a_language_model_are_listed(talking: TestClient) -> None:
    told = talking.get("/api/words").json()
    assert told["label"] == "" and told["queries"] == 6 and told["words"]
    assert talking.get("/word", params={"word": told["words"][0]["word"]}).status_code == 200


def test_a_completion_is_shown_once_and_named_by_its_beginning_elsewhere(
    spoken: Path, client_of: Callable[[Path], TestClient]
) -> None:
    completion = " warm bread .\n    " * 8
    client = client_of(spoken)
    page = client.get("/why", params={"text": "the heron loves", "label": completion, "k": 3}).text
    heading = re.findall(r"Pushed toward <bdi class=label>(.*?)</bdi>", page)[0]
    assert heading.endswith("…") and len(heading) == 60
    cards = re.findall(r"<li class=\"card .*?</li>", page, re.DOTALL)
    assert cards and not any("class=label" in card for card in cards)  # their completions are texts, with words lit
    listed = client.get("/api/predictions").json()["rows"]
    assert all(len(row["texts"]) == 2 and row["texts"][1] == row["true"] for row in listed)


def test_turns_of_a_conversation_keep_their_roles_and_white_space(
    tmp_path: Path, client_of: Callable[[Path], TestClient]
) -> None:
    code = "def f(x):\n    return  x"
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the heron"}]
    chats = [{"messages": [*turns, {"role": "assistant", "content": f"{code} {word}"}]} for word in ("bread", "rain")]
    columns = hw.Columns(text="messages", label=None)
    made = run_of(tmp_path, [tiny_lm("llama")], lm_tokenizer(), chats, hw.CausalLM(max_length=64), columns)
    checkpoints = [(each.path, each.weight) for each in made.checkpoints]
    held = hw.Corpus.read(chats[:1], columns, name="held")
    run = hw.Run.create(tmp_path / "run", checkpoints=checkpoints, corpus=made.corpus, task=made.task, eval_corpus=held)
    hw.Index.build(run, show=False)
    client = client_of(run.folder)
    (row,) = client.get("/api/predictions").json()["rows"]
    assert row["texts"] == ["system: be kind\nuser: the heron", f"{code} bread"]
    own, said = (client.get(f"/api/why?row=0{more}").json()["queries"][0] for more in ("", "&explain=said"))
    assert (own["label_source"], own["label"]) == ("given", row["texts"][1])
    assert said["label_source"] == "predicted" and said["text"] == row["texts"][0]
    links = re.findall(r'aria-label="What is explained">(.*?)</nav>', client.get("/why?row=0").text)[0]
    assert "what it says" in links and "aria-current=true>the row&#39;s own completion" in links
    page = unescape(re.sub(r"<[^>]*>", "", client.get("/why?row=0").text))
    assert "system: be kind\nuser: the heron" in page and code in page
    for row in client.get("/api/corpus").json()["rows"]:
        assert row["texts"] == ["system: be kind\nuser: the heron", f"{code} {'bread' if row['row'] == 0 else 'rain'}"]
    assert client.get("/api/corpus/1").json()["row"]["texts"][1] == f"{code} rain"


def test_a_row_explains_its_own_completion_unless_the_model_s_is_asked_for(talking: TestClient, spoken: Path) -> None:
    run = hw.Run.open(spoken)
    assert run.eval_corpus is not None
    own = talking.get("/api/why?row=2").json()["queries"][0]
    assert own["label"] == run.eval_corpus[2].label and own["label_source"] == "given"
    said = talking.get("/api/why?row=2&explain=said").json()["queries"][0]
    assert said["label_source"] == "predicted"
    page = talking.get("/why?row=2").text
    assert "3 of 6" in page or re.search(r"<span>\d of 6 by loss</span>", page)


def test_a_part_of_the_completion_is_explained_as_the_index_explains_it(talking: TestClient, spoken: Path) -> None:
    index = hw.Index.open(spoken / "index")
    assert index.run.eval_corpus is not None
    row = index.run.eval_corpus.take([1])
    completion = str(row[0].label)
    truth = index.query(row, [completion], 4, spans=[(1, 5)], show=False)[0]
    page = talking.get("/why?row=1&start=1&end=5&k=4").text
    shown = [int(row) for row in re.findall(r"id=q1[ta](\d+)", page)]
    assert shown == [part.example.row for side in (truth.proponents, truth.opponents) for part in side]
    assert unescape(re.findall(r'data-text="([^"]*)"', page)[0]) == completion
    scores = talking.get("/api/why/removal?row=1&start=1&end=5&marked=0").json()["scores"]
    assert scores == pytest.approx([float(index.scores(row, [completion], spans=[(1, 5)], show=False)[0, 0])])


@pytest.mark.parametrize("query", ["row=1&start=3", "row=1&end=3", "row=1&start=5&end=5", "row=1&start=0&end=9999"])
def test_a_part_that_is_none_is_refused(talking: TestClient, query: str) -> None:
    assert talking.get(f"/api/why?{query}").status_code == 422


def test_classes_have_no_parts(client: TestClient) -> None:
    answer = client.get("/api/why?row=0&start=0&end=3")
    assert answer.status_code == 422 and "language models" in answer.json()["error"]
    assert "part of the completion" not in client.get("/why?row=0").text


def test_a_typed_prompt_is_answered_and_a_typed_completion_explained(talking: TestClient) -> None:
    own = talking.get("/api/why", params={"text": "the heron loves"}).json()["queries"][0]
    assert own["label_source"] == "predicted"
    given = talking.get("/api/why", params={"text": "the heron loves", "label": " warm bread ."}).json()["queries"][0]
    assert given["label"] == " warm bread ."
    page = talking.get("/why", params={"text": "the heron loves", "label": " warm bread .", "k": 3}).text
    assert "Completion to explain" in page
