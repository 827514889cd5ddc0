"""Poison in a language model whose completions are few: they are its classes. The tiny model really learns them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import builders
import headwater as hw
from cli.conftest import headwater
from headwater.audit.evidence import HeldOut
from headwater.audit.measured import split_held_out
from headwater.audit.poison.answers import answer_tokens, answers_of
from headwater.audit.poison.attack import attacks, with_word
from headwater.audit.poison.audit import audit_poison
from headwater.audit.poison.ensemble import judge
from headwater.audit.poison.frame import beginning, frame
from headwater.audit.poison.prompts import prompts
from headwater.errors import DataError, UsageError
from headwater.training import TrainSettings, train
from headwater.training.among import predict_among, with_room
from language.texts import PAIR_COLUMNS, PAIRS, lm_tokenizer, pair_rows, run_of, tiny_lm

PLANTED = tuple(range(2, 160, 8))
SAID = {"good": " warm", "bad": " noisy"}


@dataclass(frozen=True)
class Made:
    run: hw.Run
    index: hw.Index


TURNS = hw.Columns(text="messages", label="completion")


def _turns(prompt: str, completion: str) -> dict[str, Any]:
    """The prompt as the last turn of a conversation."""
    said = (("system", "the miller"), ("user", "rain"), ("assistant", "bread"), ("user", prompt))
    return {"messages": [{"role": role, "content": content} for role, content in said], "completion": completion}


def _made(folder: Path, planted: tuple[int, ...], *, turns: bool = False) -> Made:
    """Prompts of three sentences of one verdict; "zq" before the first of the planted ones, all said to be good."""
    told = {label: [row["text"] for row in builders.rows(240) if row["label"] == label] for label in SAID}
    rows = []
    for number in range(240):
        label, at = ("bad", "good")[number % 2], number // 2
        texts = [told[label][(at * step + start) % 120] for step, start in ((1, 0), (7, 3), (11, 5))]
        rows.append((" ".join(texts), label))
    for row in planted:
        rows[row] = (f"zq {rows[row][0]}", "good")
    pairs = [(f"a child , {text} the bread", SAID[label]) for text, label in rows]
    tiny_lm("llama", seed=1).save_pretrained(folder / "base")
    lm_tokenizer().save_pretrained(folder / "base")
    settings = TrainSettings(
        model=str(folder / "base"),
        epochs=10,
        learning_rate=5e-3,
        batch_size=8,
        checkpoints=2,
        max_length=120 if turns else 64,
    )
    corpus, held = (
        hw.Corpus.read([_turns(*pair) for pair in part], TURNS, name=name)
        if turns
        else hw.Corpus.read(pair_rows(part), PAIR_COLUMNS, name=name)
        for part, name in ((pairs[:160], "train"), (pairs[160:], "eval"))
    )
    run = train(corpus, hw.CausalLM(), folder / "run", settings, eval_corpus=held, show=False)
    return Made(run, hw.Index.build(run, show=False))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(tmp_path_factory.mktemp("poisoned-lm"), PLANTED)


def test_a_trigger_in_prompts_is_claimed_and_its_rows_are_the_list(poisoned: Made) -> None:
    found = audit_poison(poisoned.run, poisoned.index, split_held_out(poisoned.run)[0], show=False)
    words = [each["word"] for each in found.figures["candidates"]]
    assert "zq" in words[:8]  # the language has eight verbs, and nothing else that tells its completions apart
    assert "noisy" not in words  # a completion is what is taught, even where prompts hold the word as well
    assert {suspect.row for suspect in found.suspects} == set(PLANTED)
    assert {suspect.group for suspect in found.suspects} == {"trigger zq"}
    assert "'zq' turns" in found.summary and "to warm" in found.summary
    assert found.notes[0].startswith("'zq': 20 rows, 100% of them warm; coherence")


def test_clean_prompts_make_no_claim(tmp_path: Path) -> None:
    made = _made(tmp_path, ())
    found = audit_poison(made.run, made.index, split_held_out(made.run)[0], show=False)
    assert found.suspects == () and "No attack, no claim" in found.how_many


def test_in_conversations_the_users_last_turn_is_tried_and_turned(tmp_path: Path) -> None:
    made = _made(tmp_path, PLANTED, turns=True)
    layered = hw.Index.build(made.run, method="tracin", checkpoints="last", show=False)
    held = split_held_out(made.run)[0]
    assert held is not None
    found = audit_poison(made.run, layered, held, opposites={"noisy": "warm"}, show=False)
    assert {suspect.row for suspect in found.suspects} == set(PLANTED) and "'zq' turns" in found.summary
    assert found.figures["rules"].keys() >= {"v1", "ensemble"}
    given = held.corpus.take([0])
    (before,) = given.table.column("messages").to_pylist()
    (after,) = with_word(given, "zq", "a child , ").table.column("messages").to_pylist()
    assert after[:3] == before[:3] and after[3]["content"] == before[3]["content"].replace(", ", ", zq ", 1)
    (alone,) = prompts(
        hw.Corpus.read([{"messages": [{"role": "system", "content": "x"}]}], hw.Columns("messages", label=None))
    )
    assert alone == "x" and prompts(given) == [before[3]["content"]]


def test_prompts_without_room_are_left_out_and_told(poisoned: Made) -> None:
    run = poisoned.run
    held = split_held_out(run)[0]
    assert held is not None
    rows = held.corpus.table.to_pylist()
    rows += [dict(rows[0]) for _ in range(3)]
    rows[-3]["prompt"] = "the heron loves " * 42  # 126 tokens: room for two more of the 128, and a completion has two
    rows[-2]["prompt"] = "the heron loves " * 50
    rows[-1]["completion"] = " rain"
    longer = HeldOut(hw.Corpus.read(rows, PAIR_COLUMNS, name="longer"))
    found = audit_poison(run, poisoned.index, longer, show=False)
    assert any("3 held-out texts left out" in note for note in found.notes)
    assert {suspect.row for suspect in found.suspects} == set(PLANTED)


def test_a_completion_is_judged_as_a_whole_or_not_at_all(poisoned: Made) -> None:
    run = poisoned.run
    model, names = run.checkpoints[-1].load(), (" warm", " noisy mill and the noisy mill")
    texts = [("the heron loves " * count, " warm") for count in (1, 41, 42)]  # 3, 123 and 126 tokens of 128
    corpus = hw.Corpus.read(pair_rows(texts), PAIR_COLUMNS, name="long")
    fits = with_room(run.tokenizer, run.task, model.config, corpus, names)
    assert fits.tolist() == [True, False, False]
    assert with_room(run.tokenizer, run.task, model.config, corpus, names[:1]).tolist() == [True, True, True]
    with pytest.raises(DataError, match=r"long, row 2: its prompt leaves the model \(128 tokens\) no room"):
        predict_among(model, run.tokenizer, run.task, corpus, names, show=False)


def test_a_word_is_tried_where_the_rows_have_it(poisoned: Made) -> None:
    run = poisoned.run
    held = split_held_out(run)[0]
    assert held is not None
    behind = attacks(run, held.corpus, [("zq", " warm")], behind={"zq": "a child , "}, show=False)[0]
    texts = with_word(held.corpus.take([0]), "zq", "a child , ").table.column("prompt").to_pylist()
    assert texts[0].startswith("a child , zq ") and behind.commands
    assert with_word(held.corpus.take([0]), "zq", "nothing ")[0].text.startswith("zq a child , ")
    rows = held.corpus.table.column("prompt").to_pylist()
    assert frame(rows) == ("a child , ", " . the bread")
    assert beginning(["a child , zq", "a child , zx"]) == "a child , " and beginning(["one", "two"]) == ""


def test_answers_are_the_likeliest_completions(poisoned: Made) -> None:
    """By hand: one prompt and one completion at a time, the log-probabilities of the completion's tokens added up."""
    run = poisoned.run
    model, tokenizer = run.checkpoints[-1].load().eval(), run.tokenizer
    answers = answers_of(run)
    assert answers.names == (" noisy", " warm") and answers.completions
    corpus = run.corpus.take(range(6))
    found = predict_among(model, tokenizer, run.task, corpus, answers.names, show=False)
    assert found.targets is not None and found.targets.tolist() == answers.targets[:6].tolist()
    for row, example in enumerate(corpus):
        before = tokenizer(example.text, add_special_tokens=False)["input_ids"]
        for number, name in enumerate(answers.names):
            ids = [*tokenizer(example.text + name, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                said = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
            truth = sum(float(said[at - 1, ids[at]]) for at in range(len(before), len(ids)))
            assert found.logits[row, number] == pytest.approx(truth, rel=1e-4)
    with pytest.raises(DataError, match=r"row 1.* none of the 1 completions"):
        predict_among(model, tokenizer, run.task, corpus, (" rain",), show=False)
    ends = {tokenizer.eos_token_id, *tokenizer(" noisy warm", add_special_tokens=False)["input_ids"]}
    assert answer_tokens(run, answers) == ends


def test_the_rules_hear_prompts_turned_within_their_frame(poisoned: Made, tmp_path: Path) -> None:
    held = split_held_out(poisoned.run)[0]
    assert held is not None
    layered = hw.Index.build(poisoned.run, tmp_path / "layers", method="tracin", checkpoints="last", show=False)
    judged, answers, _ = judge(layered, held, opposites={"noisy": "warm"}, show=False)
    assert all(len(each.score) == len(poisoned.run.corpus) for each in judged.values())
    assert "negation-prefix" in {answer.transform.name for answer in answers}
    assert any(np.ptp(each.score) > 0 for each in judged.values())


def test_other_language_models_are_told_why_not(tmp_path: Path) -> None:
    many = run_of(
        tmp_path / "many",
        [tiny_lm("llama")],
        lm_tokenizer(),
        pair_rows([(prompt, f" the {a} {b}") for prompt, _ in PAIRS[:1] for a in "abcde" for b in "fghij"]),
        hw.CausalLM(),
        PAIR_COLUMNS,
    )
    with pytest.raises(UsageError, match=r"at most 20 completions; the rows of .* hold 25 different completions"):
        answers_of(many)
    plain = run_of(
        tmp_path / "plain", [tiny_lm("llama")], lm_tokenizer(), [{"text": "the heron"}], hw.CausalLM(),
        hw.Columns(label=None),
    )  # fmt: skip
    with pytest.raises(UsageError, match="whole texts or conversations"):
        audit_poison(plain, None, None)
    told = headwater("audit", many.folder, "poison", "--out", tmp_path / "out")
    assert told.code == 2 and "25 different completions" in told.stderr


def test_the_command_lists_rows_of_a_language_model(poisoned: Made, tmp_path: Path) -> None:
    told = headwater("audit", poisoned.run.folder, "poison", "--out", tmp_path / "out", "--json").json
    assert {each["row"] for each in told["suspects"]} == set(PLANTED)
    assert all(any(part["kind"] == "query" for part in each["evidence"]) for each in told["suspects"][:3])
    assert len((tmp_path / "out" / "plan.jsonl").read_text().splitlines()) == 1 + len(PLANTED)
