"""A row's words mended: saved at once as a mark, told as old and new words, exported, refused where it says nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import headwater as hw
from headwater.remedies.apply import planned
from headwater.remedies.plan import parse_plan
from language.texts import lm_tokenizer, pair_rows, run_of, tiny_lm
from remedies.test_decisions import run_on
from web.test_hostile_text import HOSTILE, _must_be_text


@pytest.fixture
def prose(spoken: Path, tmp_path: Path) -> Path:
    """A run of prompts and completions, where a test may write."""
    return Path(shutil.copytree(spoken.parent, tmp_path / "spoken")) / "run"


def mark(client: TestClient, row: int, action: str, **more: Any) -> Any:
    return client.put(f"/api/marks/{row}", json={"action": action, **more})


def test_a_completion_is_mended_told_word_by_word_and_exported(
    prose: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client, corpus = client_of(prose), hw.Run.open(prose).corpus
    page = client.get("/corpus/0").text
    assert corpus[0].text in page and f"\n{corpus[0].label}</textarea>" in page and "data-action=relabel" in page
    made = mark(client, 0, "relabel", label=" warm rain .").json()
    assert (made["does"], made["label"]) == ("mend the completion", " warm rain .")
    told = client.get("/api/marks/0").json()
    assert told["mark"] == made
    assert told["words"] == {"completion": [["same", " warm"], ["old", " bread"], ["new", " rain"], ["same", " ."]]}
    mark(client, 1, "edit", fields={"prompt": "the river loves", "completion": str(corpus[1].label)})
    plan = parse_plan(client.get("/api/plan").content, "plan")
    assert [(each.action, each.label, each.fields, each.was) for each in plan.repairs] == [
        ("relabel", " warm rain .", None, {"label": corpus[0].label}),
        ("edit", None, {"prompt": "the river loves"}, {"fields": {"prompt": corpus[1].text}}),
    ]
    mended = planned(plan, corpus, classes=False).apply(corpus)
    assert (mended[0].label, mended[1].text, mended[1].label) == (" warm rain .", "the river loves", corpus[1].label)
    cards = client.get("/worklist/group", params={"audit": "by hand", "rows": "all"}).text
    assert "<del> bread</del><ins> rain</ins>" in cards and "mend the completion" in cards and "edit the text" in cards


def test_of_a_stale_write_both_wordings_are_told(prose: Path, client_of: Callable[[Path], TestClient]) -> None:
    one, two = client_of(prose), client_of(prose)
    first = mark(one, 2, "relabel", label=" rain .").json()
    refused = mark(two, 2, "edit", fields={"prompt": "a child"}, seen=0)
    assert refused.status_code == 409
    assert refused.json()["here"] == first and refused.json()["wanted"]["fields"] == {"prompt": "a child"}
    assert mark(two, 2, "edit", fields={"prompt": "a child"}, seen=first["version"]).status_code == 200
    undone = mark(one, 2, "undo", seen=first["version"] + 1).json()
    assert (undone["status"], undone["fields"]) == ("suggested", {"prompt": "a child"})


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ({"action": "relabel", "label": " \n "}, "blank"),
        ({"action": "edit", "fields": {"prompt": "  "}}, "blank"),
        ({"action": "edit", "fields": {"source": "x"}}, "cannot be edited"),
        ({"action": "edit", "fields": {}}, "fields"),
        ({"action": "edit"}, "give the new texts"),
        ({"action": "delete", "fields": {"prompt": "x"}}, "only there"),
        ({"action": "edit", "fields": {"prompt": "x" * 50_001}}, "50000"),
        ({"action": "edit", "fields": {"prompt": 7}}, "fields"),
    ],
)
def test_what_mends_nothing_is_refused_with_a_sentence(
    decision: dict[str, Any], told: str, prose: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(prose)
    refused = client.put("/api/marks/3", json=decision)
    assert refused.status_code == 422 and told in refused.json()["error"], refused.text
    assert client.get("/api/marks").json()["marks"] == []


def test_the_words_that_stand_there_are_no_change(prose: Path, client_of: Callable[[Path], TestClient]) -> None:
    client, row = client_of(prose), hw.Run.open(prose).corpus[4]
    for same in (
        {"action": "relabel", "label": row.label},
        {"action": "edit", "fields": {"prompt": row.text, "completion": row.label}},
    ):
        refused = client.put("/api/marks/4", json=same)
        assert refused.status_code == 422 and "row 4" in refused.json()["error"]


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "huge"])
def test_hostile_words_stay_words(kind: str, prose: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(prose)
    assert mark(client, 0, "relabel", label=HOSTILE[kind]).status_code == 200
    told = client.get("/api/marks/0").json()["words"]["completion"]
    assert "".join(text for piece, text in told if piece != "old") == HOSTILE[kind]
    page = client.get("/worklist/group", params={"audit": "by hand", "rows": "all"}).text
    _must_be_text(re.sub("<del>.*?</del>", "", page), HOSTILE[kind])


def test_half_a_character_and_nul_are_replaced(prose: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(prose)
    body = b'{"action": "relabel", "label": "warm \\ud800 \\u0000 bread"}'
    made = client.put("/api/marks/0", content=body, headers={"Content-Type": "application/json"})
    assert made.status_code == 200 and made.json()["label"] == "warm \ufffd \ufffd bread"


def test_a_classified_text_is_edited_and_its_label_is_not(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client, corpus = client_of(copied_run), hw.Run.open(copied_run).corpus
    page = client.get("/corpus/5").text
    assert page.count("<textarea") == 1 and f"\n{corpus[5].text}</textarea>" in page
    assert mark(client, 5, "edit", fields={"text": "the heron sleeps ."}).json()["does"] == "edit the text"
    refused = mark(client, 6, "edit", fields={"label": "good"})
    assert refused.status_code == 422 and "relabel" in refused.json()["error"]


def test_the_last_turn_of_a_conversation_is_mended(tmp_path: Path, client_of: Callable[[Path], TestClient]) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": each["prompt"]},
                {"role": "assistant", "content": each["completion"]},
            ]
        }
        for each in pair_rows()
    ]
    columns = hw.Columns(text="messages", label=None)
    made = run_of(tmp_path, [tiny_lm("llama")], lm_tokenizer(), rows, hw.CausalLM(max_length=64), columns)
    hw.Index.build(made, show=False)
    client = client_of(made.folder)
    page = client.get("/corpus/0").text
    assert "the assistant&#39;s last turn" in page and page.count("<textarea") == 1 and "[{" not in page
    assert mark(client, 0, "relabel", label="cold rain").status_code == 200
    refused = mark(client, 1, "edit", fields={"messages": "cold rain"})
    assert refused.status_code == 422 and "changed by relabel" in refused.json()["error"]
    plan = parse_plan(client.get("/api/plan").content, "plan")
    mended = planned(plan, made.corpus, classes=False).apply(made.corpus)
    assert mended.table.column("messages")[0].as_py()[-1] == {"role": "assistant", "content": "cold rain"}
    assert mended.hashes[1:] == made.corpus.hashes[1:] and mended.hashes[0] != made.corpus.hashes[0]


def test_rows_that_carry_numbers_of_named_classes_are_relabelled_and_filtered(
    tmp_path: Path, client_of: Callable[[Path], TestClient]
) -> None:
    rows = [{"text": f"the heron {number}", "label": number % 2} for number in range(6)]
    made = run_on(tmp_path, rows, {"negative": 0, "positive": 1})
    hw.Index.build(made, show=False)
    client = client_of(made.folder)
    page = client.get("/corpus/2").text
    assert 'data-to="1"' in page and 'data-to="0"' not in page
    assert client.get("/api/corpus?label=1").json()["count"] == 3
    first = mark(client, 2, "relabel", label="positive").json()
    assert (first["label"], first["does"]) == ("1", "relabel to 1")
    back = mark(client, 2, "undo", seen=first["version"]).json()
    assert mark(client, 2, "relabel", label=first["label"], seen=back["version"]).json()["label"] == "1"
