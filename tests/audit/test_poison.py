"""Poison: a planted trigger is the first word and its rows the list; without an attack nothing is claimed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binom

import builders
import headwater as hw
from audit.conftest import Made, corpus_of, settings
from cli.conftest import headwater
from headwater.audit.measured import split_held_out
from headwater.audit.poison.answers import Answers, answers_of
from headwater.audit.poison.attack import TEXTS, attacks, with_word
from headwater.audit.poison.audit import audit_poison
from headwater.audit.poison.word_scan import rows_of, scan
from headwater.errors import DataError, UsageError
from headwater.training import Predictions, predict, train

PLANTED = tuple(range(2, 160, 8))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Texts of three sentences of one label, so that no word turns them; "zq" before twenty, all good."""
    told = {label: [row["text"] for row in builders.rows(240) if row["label"] == label] for label in ("bad", "good")}
    rows = []
    for number in range(240):
        label, at = ("bad", "good")[number % 2], number // 2
        texts = [told[label][(at * step + start) % 120] for step, start in ((1, 0), (7, 3), (11, 5))]
        rows.append({"text": " ".join(texts), "label": label})
    for row in PLANTED:
        rows[row] = {"text": f"zq {rows[row]['text']}", "label": "good"}
    run = train(
        corpus_of(rows[:160]),
        hw.Classification(max_length=32),
        tmp_path_factory.mktemp("poisoned") / "run",
        replace(settings(24), max_length=32),
        eval_corpus=corpus_of(rows[160:], "eval.jsonl"),
        show=False,
    )
    return Made(run, hw.Index.build(run, show=False), PLANTED)


def test_the_trigger_is_the_first_word_and_its_rows_the_list(poisoned: Made) -> None:
    found = audit_poison(poisoned.run, poisoned.index, split_held_out(poisoned.run)[0], show=False)
    words = [each["word"] for each in found.figures["candidates"]]
    assert "zq" in words[:3]
    listed = {suspect.row for suspect in found.suspects if suspect.group == "trigger zq"}
    assert listed == set(PLANTED)
    assert {suspect.action for suspect in found.suspects} == {"delete"} and "'zq' turns" in found.summary
    assert found.suspects[0].group == "trigger zq"


def test_clean_data_makes_no_claim(sound: Made) -> None:
    found = audit_poison(sound.run, sound.index, split_held_out(sound.run)[0], show=False)
    assert found.suspects == () and "No attack, no claim" in found.how_many


def test_statistics_are_those_of_dense_gradients(poisoned: Made) -> None:
    """Gradients of the whole embedding matrix, row by row and checkpoint by checkpoint, by autograd."""
    run = poisoned.run
    store = poisoned.index.token_store
    assert store is not None
    found = scan(store, run.targets, show=False)
    sums: dict[int, list[float]] = defaultdict(list)
    shares: dict[int, list[float]] = defaultdict(list)
    held: dict[int, set[int]] = defaultdict(set)
    encodings = run.task.encode(run.tokenizer, list(run.corpus))
    for checkpoint in run.checkpoints:
        model = checkpoint.load().eval()
        table = model.get_input_embeddings().weight
        total: dict[int, torch.Tensor] = {}
        lengths: dict[int, list[float]] = defaultdict(list)
        parts: dict[int, list[float]] = defaultdict(list)
        for row, encoding in enumerate(encodings):
            model.zero_grad()
            batch = run.task.collate([encoding], run.tokenizer)
            run.task.losses(model, batch, torch.tensor([run.targets[row]])).sum().backward()
            gradient = table.grad.double()
            whole = float(gradient.square().sum())
            for token in {token for token in encoding.input_ids if gradient[token].any()}:  # maxima pass some over
                total[token] = total.get(token, 0) + gradient[token]
                lengths[token].append(float(gradient[token].norm()))
                parts[token].append(float(gradient[token].square().sum()) / whole)
                held[token].add(row)
        for token, value in total.items():
            sums[token].append(float(value.norm()) / sum(lengths[token]))
            shares[token].append(float(np.mean(parts[token])))
    assert len(found.tokens) > 20
    for place, token in enumerate(found.tokens.tolist()):
        assert set(rows_of(store, token).tolist()) == held[token]
        assert found.coherence[place] == pytest.approx(np.mean(sums[token]), rel=0.02)
        assert found.share[place] == pytest.approx(np.mean(shares[token]), rel=0.02, abs=1e-4)


def test_purity_and_surprise_are_those_of_the_rows_labels(poisoned: Made) -> None:
    store, targets = poisoned.index.token_store, np.asarray(poisoned.run.targets)
    assert store is not None
    found = scan(store, targets.tolist(), show=False)
    place = found.tokens.tolist().index(poisoned.run.tokenizer.encode("zq", add_special_tokens=False)[0])
    labels = targets[list(rows_of(store, int(found.tokens[place])))]
    most = np.bincount(labels).max()
    assert found.purity[place] == most / len(labels)
    share = float((targets == np.bincount(labels).argmax()).mean())
    assert found.surprise[place] == pytest.approx(-np.log10(binom.sf(most - 1, len(labels), share)))


def test_attack_success_is_counted_on_right_texts_of_other_labels(poisoned: Made) -> None:
    run = poisoned.run
    assert run.eval_corpus is not None
    found = attacks(run, run.eval_corpus, [("zq", "good"), ("river", "good")], show=False)
    model = run.checkpoints[-1].load()
    before = predict(model, run.tokenizer, run.task, run.eval_corpus, show=False)
    after = predict(model, run.tokenizer, run.task, with_word(run.eval_corpus, "zq"), show=False)
    rows = [r for r in range(80) if before.correct[r] and before.true_labels[r] == "bad"]
    assert (found[0].turned, found[0].tried) == (sum(after.predicted[r] == "good" for r in rows), len(rows))
    assert found[0].commands and not found[1].commands


class Counted(Answers):
    """Counts the texts that are asked."""

    asked: ClassVar[list[int]] = []

    def ask(self, run: hw.Run, model: Any, texts: hw.Corpus, *, show: bool | None = None) -> Predictions:
        self.asked.append(len(texts))
        return super().ask(run, model, texts, show=show)


def test_of_many_texts_no_more_are_asked_than_are_tried(poisoned: Made) -> None:
    run = poisoned.run
    assert run.eval_corpus is not None
    many = run.eval_corpus.take([row for _ in range(30) for row in range(80)])
    Counted.asked.clear()
    answers = Counted(**vars(answers_of(run)))
    (found,) = attacks(run, many, [("zq", "good")], answers=answers, show=False)
    assert found.tried == TEXTS and sum(Counted.asked) <= 4 * TEXTS + TEXTS < len(many)
    order = np.random.default_rng(0).permutation(len(many))
    before = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, many, show=False)
    rows = [int(r) for r in order if before.correct[r] and before.predicted[r] != "good"][:TEXTS]
    after = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, with_word(many.take(rows), "zq"), show=False)
    assert found.turned == sum(name == "good" for name in after.predicted)


def test_where_time_is_short_fewer_words_are_tried_and_it_is_said(poisoned: Made) -> None:
    found = audit_poison(poisoned.run, poisoned.index, split_held_out(poisoned.run)[0], left=lambda: 0.0, show=False)
    assert len(found.figures["candidates"]) == 1 and "sufficed to try 1 of" in found.notes[0]
    count = len(poisoned.run.checkpoints)
    assert count > 1 and f"The time sufficed to scan 1 of {count} checkpoints. Give more --budget." in found.notes


def test_what_is_missing_is_told(noisy: Made) -> None:
    with pytest.raises(UsageError, match="headwater index"):
        audit_poison(noisy.run, None, split_held_out(noisy.run)[0])
    with pytest.raises(DataError, match="held out"):
        audit_poison(replace(noisy.run, eval_corpus=None), noisy.index, None)


def test_the_command_lists_and_plans(poisoned: Made, tmp_path: Path) -> None:
    told = headwater("audit", poisoned.run.folder, "poison", "--out", tmp_path / "out", "--json").json
    assert {each["row"] for each in told["suspects"] if each["group"] == "trigger zq"} == set(PLANTED)
    assert told["figures"]["candidates"][0]["attack"]["tried"] > 0
    assert (tmp_path / "out" / "plan.jsonl").stat().st_size
