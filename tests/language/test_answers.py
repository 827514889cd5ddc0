"""What a language model's answer says: words of prompt and completion, greedy continuations, filters, pages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from headwater.errors import DataError, UsageError
from language.texts import (
    PAIR_COLUMNS,
    PAIRS,
    QUERIES,
    bert_tokenizer,
    causal_gradient,
    lm_tokenizer,
    pair_rows,
    run_of,
    seq2seq_gradient,
    tiny_lm,
    untied,
)


@pytest.fixture(scope="module", params=["llama", "t5", "bart"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(kind: str, tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    causal = kind == "llama"
    tokenizer = lm_tokenizer() if causal else bert_tokenizer()
    task: Any = hw.CausalLM(max_length=32) if causal else hw.Seq2Seq(max_length=32)
    models = [tiny_lm(kind, seed=seed) for seed in (0, 1)]
    run = run_of(tmp_path_factory.mktemp(kind), models, tokenizer, pair_rows(), task, PAIR_COLUMNS)
    return hw.Index.build(run, dtype="float32")


def test_words_of_prompt_and_completion_have_scores_and_add_up(index: hw.Index) -> None:
    scores = index.scores(QUERIES)
    for number, item in enumerate(index.query(QUERIES, k=6)):
        assert item.query.example.text_pair == item.query.label == QUERIES[number][1]
        parts = set()
        for influence in (*item.proponents, *item.opponents):
            row = PAIRS[influence.example.row]
            assert (influence.example.text, influence.example.text_pair) == row
            assert influence.score == pytest.approx(float(scores[number, influence.example.row]), rel=1e-4)
            assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)
            for pair in influence.words:
                sides = ((pair.train, pair.train_spans, row), (pair.query, pair.query_spans, QUERIES[number]))
                for surface, spans, texts in sides:  # a piece of several words is shown as itself
                    assert all(surface in texts[span.part][span.start : span.end] for span in spans)
                if not pair.special and pair.score:
                    parts |= {(span.part, other.part) for span in pair.train_spans for other in pair.query_spans}
        assert {(0, 0)} < parts
    every = [pair for item in index.query(QUERIES, k=20) for row in item.proponents for pair in row.words]
    assert any(span.part == 1 for pair in every for span in pair.query_spans)
    assert any(span.part == 1 for pair in every for span in pair.train_spans)


def test_without_labels_the_model_s_own_greedy_answer_is_explained(index: hw.Index, kind: str) -> None:
    model, tokenizer = index.run.checkpoints[-1].load(), index.run.tokenizer
    prompt = "the river loves"
    (item,) = index.query([prompt], k=3, max_new_tokens=5)
    ids = tokenizer(prompt)["input_ids"]
    answer: list[int] = []
    while len(answer) < 5 and 3 not in answer:  # [SEP], which ends texts here
        if kind == "llama":
            logits = model(input_ids=torch.tensor([[*ids, *answer]])).logits
        else:
            read = torch.tensor([[model.config.decoder_start_token_id, *answer]])
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=read).logits
        answer.append(int(logits[0, -1].argmax()))
    assert item.query.label == item.query.predicted == tokenizer.decode(answer, skip_special_tokens=True)
    assert not item.query.given and item.to_dict()["label_source"] == "predicted"
    free = untied(model)
    loss = (
        causal_gradient(free, [*ids, *answer], len(ids))[1]
        if kind == "llama"
        else seq2seq_gradient(free, ids, answer)[1]
    )
    assert item.query.loss == pytest.approx(loss, rel=1e-4)
    assert item.query.probability == pytest.approx(math.exp(-loss / len(answer)), rel=1e-4)
    assert item.query.encoding.targets is not None


def test_an_answer_is_plain_values_and_a_page(index: hw.Index, tmp_path: Path) -> None:
    found = index.query(QUERIES, k=3)
    answer = json.loads(json.dumps(found.to_dict()))
    assert answer["run"]["task"] in ("causal-lm", "seq2seq") and answer["run"]["labels"] == []
    assert answer["queries"][0]["label"] == QUERIES[0][1]
    assert answer["queries"][0]["predicted"] is None and answer["queries"][0]["label_source"] == "given"
    assert next(iter(found.to_pandas()["query_label"])) == QUERIES[0][1]
    found.save_html(tmp_path / "why.html")
    assert "warm" in (tmp_path / "why.html").read_text()
    found.save_html(tmp_path / "private.html", hide_training_text=True)
    assert "unbelievable" not in (tmp_path / "private.html").read_text()


def test_rows_are_filtered_by_their_completion(index: hw.Index) -> None:
    (item,) = index.query(QUERIES[:1], k=20, where={"label": " long winters ."})
    shown = {influence.example.label for influence in (*item.proponents, *item.opponents)}
    assert shown == {" long winters ."}


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda i: i.query([]), UsageError, "no queries"),
        (lambda i: i.query(QUERIES, labels=["a"]), UsageError, "leave labels out"),
        (lambda i: i.query(["the baker"], labels=["a", "b"]), UsageError, "1 queries but 2 labels"),
        (lambda i: i.query(["the baker"], labels=[3]), DataError, "queries, row 1: the .* must be text, not 3"),
        (lambda i: i.query(["the baker"], max_new_tokens=0), UsageError, "max_new_tokens must be at least 1"),
        (lambda i: i.query(7), DataError, "cannot be read from int"),
    ],
)
def test_a_question_that_makes_no_sense_says_so(
    index: hw.Index, ask: Callable[[hw.Index], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ask(index)


def test_several_runs_are_averaged_and_the_first_one_s_answer_is_explained(tmp_path: Path) -> None:
    task, tokenizer = hw.CausalLM(), lm_tokenizer()
    runs = [
        run_of(tmp_path / str(seed), [tiny_lm("gpt2", seed=seed)], tokenizer, pair_rows(), task, PAIR_COLUMNS)
        for seed in (0, 1)
    ]
    alone = [hw.Index.build(run, dtype="float32") for run in runs]
    both = hw.Index.open([index.folder for index in alone], run=runs)
    mean = sum(index.scores(QUERIES) for index in alone) / 2
    assert both.scores(QUERIES) == pytest.approx(mean, rel=1e-4, abs=1e-9)
    (item,), (first,) = (index.query(["the baker"], max_new_tokens=4, k=2) for index in (both, alone[0]))
    assert item.query.label == first.query.label
    losses = [index.query(QUERIES[:1], k=1)[0].query.loss for index in (*alone, both)]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2)
