"""The worklist: groups by size, decisions at once, conflicts with both values, a group only after its sample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import headwater as hw
from headwater.remedies.plan import Header, Plan, Repair, read_plan

GROUP = "good → bad"


def suggest(run: Path, repairs: list[Repair], audit: str = "mislabels", corpus: str | None = None) -> None:
    fingerprint = hw.Run.open(run).corpus.fingerprint if corpus is None else corpus
    folder = run / "audit" / audit
    folder.mkdir(parents=True)
    Plan(tuple(repairs), Header(corpus=fingerprint)).write(folder / "plan.jsonl")


def suggested(run: Path, rows: list[int], group: str | None = GROUP) -> list[Repair]:
    corpus = hw.Run.open(run).corpus
    return [
        Repair("delete", row=row, hash=corpus[row].hash, status="suggested", source="mislabels", rank=rank, group=group)
        for rank, row in enumerate(rows, 1)
    ]


@pytest.fixture
def planted(copied_run: Path) -> Path:
    """A run with 24 suggestions of one audit: 14 of one group, 10 of another."""
    suggest(
        copied_run, suggested(copied_run, list(range(10, 20)), "small") + suggested(copied_run, list(range(30, 44)))
    )
    return copied_run


def decide(client: TestClient, row: int, action: str, **more: Any) -> Any:
    return client.put(f"/api/marks/{row}", json={"action": action, **more})


def test_groups_come_by_size_and_are_drawn(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(planted)
    found = client.get("/api/worklist").json()
    assert [(each["title"], each["size"], each["decided"]) for each in found["groups"]] == [
        (GROUP, 14, 0),
        ("small", 10, 0),
    ]
    drawn = client.get("/worklist").text
    assert drawn.index(GROUP) < drawn.index(">small<")
    assert "Look at a random sample of each band" in drawn


def test_a_decision_is_kept_at_once_and_exported(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(planted)
    mark = decide(client, 31, "accept", audit="mislabels").json()
    assert (mark["row"], mark["action"], mark["status"], mark["by_hand"]) == (31, "delete", "accepted", True)
    other = client_of(planted)
    assert other.get("/api/marks").json()["marks"] == [mark]
    assert other.get("/api/marks", params={"since": mark["version"]}).json() == {
        "version": mark["version"],
        "marks": [],
    }
    run = hw.Run.open(planted)
    now = run.corpus[3].label
    label = next(name for name in run.label2id if name != now)
    decide(client, 3, "relabel", label=label)
    (planted / "exported.jsonl").write_text(client.get("/api/plan").text)
    plan = read_plan(planted / "exported.jsonl")
    assert [(each.row, each.action, each.label) for each in plan.repairs] == [
        (3, "relabel", label),
        (31, "delete", None),
    ]
    assert plan.repairs[0].was == {"label": now} and plan.repairs[0].hash == run.corpus[3].hash


def test_a_stale_write_is_refused_with_both_values(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    one, two = client_of(planted), client_of(planted)
    first = decide(one, 31, "keep", audit="mislabels").json()
    refused = decide(two, 31, "delete", audit="mislabels", seen=0)
    assert refused.status_code == 409
    assert refused.json()["here"] == first
    assert refused.json()["wanted"] == {
        "row": 31,
        "action": "delete",
        "label": None,
        "fields": None,
        "status": "accepted",
    }
    assert decide(two, 31, "delete", audit="mislabels", seen=first["version"]).status_code == 200


def test_undo_leaves_a_row_undecided(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(planted)
    mark = decide(client, 31, "accept", audit="mislabels").json()
    undone = decide(client, 31, "undo", audit="mislabels", seen=mark["version"]).json()
    assert undone["status"] == "suggested" and client.get("/api/plan").text.count("\n") == 1
    assert client.get("/api/worklist").json()["groups"][0]["decided"] == 0
    assert decide(client, 32, "undo").status_code == 422


def test_a_group_is_accepted_only_after_its_sample(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(planted)
    asked = {"audit": "mislabels", "group": GROUP}
    refused = client.post("/api/worklist/accept", json=asked)
    assert refused.status_code == 409 and len(refused.json()["unseen"]) == 10
    sample = [each["row"] for each in client.get("/api/worklist/group", params=asked).json()["rows"]]
    assert len(sample) == 10 and sample != sorted(sample)
    for number, row in enumerate(sample):
        decide(client, row, "keep" if number < 2 else "accept", audit="mislabels")
    assert client.post("/api/worklist/accept", json=asked).json() == {"accepted": 4}
    found = client.get("/api/worklist/group", params=asked).json()
    assert found["decided"] == 14 and found["sample"]["right"] == 8
    kept = set(sample[:2])
    plan = [json.loads(line) for line in client.get("/api/plan").text.splitlines()[1:]]
    assert {each["row"] for each in plan if each["action"] == "delete"} == set(range(30, 44)) - kept


def test_reviews_say_how_many_wrong_rows_are_left(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    client = client_of(planted)
    order = [*range(10, 20), *range(30, 44)]  # four bands of six
    for first in range(0, 24, 6):
        for number, row in enumerate(order[first : first + 4]):
            decide(client, row, "accept" if number < 3 else "keep", audit="mislabels")
    (audit,) = client.get("/api/worklist").json()["audits"]
    assert [(band["reviewed"], band["right"], band["left"]) for band in audit["bands"]] == [(4, 3, 2)] * 4
    assert audit["left"]["about"] == pytest.approx(6.0)
    assert "About <b>6</b> wrong rows" in client.get("/worklist").text
    band = client.get("/api/worklist/group", params={"audit": "mislabels", "band": 2}).json()
    assert {each["row"] for each in band["rows"]} == set(order[6:12])


def test_rows_marked_without_an_audit_are_a_group_of_their_own(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    client = client_of(copied_run)
    assert "No suggestions yet" in client.get("/worklist").text
    decide(client, 7, "delete")
    (group,) = client.get("/api/worklist").json()["groups"]
    assert (group["title"], group["size"], group["decided"]) == ("marked by you", 1, 1)
    assert client.get(group["url"]).status_code == 200


def test_plans_of_other_rows_and_broken_ones_are_told_not_shown(
    copied_run: Path, client_of: Callable[[Path], TestClient]
) -> None:
    suggest(copied_run, suggested(copied_run, [1]), corpus="0" * 32)
    suggest(copied_run, suggested(copied_run, [1]), audit="poison")
    (copied_run / "audit" / "poison" / "plan.jsonl").write_text('{"row": ')
    found = client_of(copied_run).get("/api/worklist").json()
    assert not found["groups"]
    assert "another corpus" in found["notes"][0] and "plan.jsonl, line 1" in found["notes"][1]


def test_a_row_is_not_relabelled_to_what_it_is(copied_run: Path, client_of: Callable[[Path], TestClient]) -> None:
    refused = decide(client_of(copied_run), 3, "relabel", label=str(hw.Run.open(copied_run).corpus[3].label))
    assert refused.status_code == 422 and "carries that label already" in refused.json()["error"]


@pytest.mark.parametrize(
    ("row", "body", "said"),
    [
        (99_999, {"action": "delete"}, "there is no row 99,999"),
        (3, {"action": "relabel"}, "label"),
        (3, {"action": "relabel", "label": "nobody"}, "no label 'nobody'"),
        (3, {"action": "delete", "label": "good"}, "label"),
        (3, {"action": "accept"}, "no audit"),
        (3, {"action": "burn"}, "action"),
        (3, {"action": "delete", "more": 1}, "more"),
    ],
)
def test_a_wrong_decision_is_refused_and_says_why(
    copied_run: Path, client_of: Callable[[Path], TestClient], row: int, body: dict[str, Any], said: str
) -> None:
    client = client_of(copied_run)
    answer = client.put(f"/api/marks/{row}", json=body)
    assert answer.status_code == 422 and said in answer.json()["error"]
    assert client.get("/api/marks").json()["marks"] == []


def test_marks_cannot_be_written_from_another_origin(planted: Path, stranger: TestClient, client: TestClient) -> None:
    headers = {"Origin": "http://elsewhere.example", "Cookie": f"headwater-8765={client.headers['Authorization'][7:]}"}
    assert stranger.put("/api/marks/1", json={"action": "delete"}, headers=headers).status_code == 403


def test_kept_rows_silence_audits_until_they_change(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    from headwater.remedies.decisions import kept_rows

    client = client_of(planted)
    decide(client, 31, "keep", audit="mislabels")
    decide(client, 32, "delete", audit="mislabels")
    assert kept_rows(hw.Run.open(planted)) == {31}


def test_what_audits_suggest_for_rows_is_told(planted: Path, client_of: Callable[[Path], TestClient]) -> None:
    found = client_of(planted).get("/api/suggestions", params={"row": [31, 5, 12]}).json()
    assert {each["row"] for each in found} == {31, 12}
    assert found[0] == {"audit": "mislabels", "row": 31, "action": "delete", "label": None}


def test_hostile_names_of_groups_are_text(copied_run: Path, client_of: Callable[[Path], TestClient]) -> None:
    hostile = "<script>alert(1)</script>\"'&/../\u202e"
    suggest(copied_run, suggested(copied_run, [1, 2], hostile))
    client = client_of(copied_run)
    assert "<script>alert" not in client.get("/worklist").text
    (group,) = client.get("/api/worklist").json()["groups"]
    opened = client.get(group["url"])
    assert opened.status_code == 200 and "<script>alert" not in opened.text
