"""Scores of causal language models are the exact product of dense gradients on the input side of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import headwater as hw
from language.texts import (
    PAIR_COLUMNS,
    PAIRS,
    QUERIES,
    causal_gradient,
    lm_tokenizer,
    pair_rows,
    products,
    run_of,
    tiny_lm,
    untied,
)
from oracle import relative_error

WEIGHTS = (1e-2, 5e-3)


def _ids(tokenizer: Any, prompt: str, completion: str, end: bool = True) -> tuple[list[int], int]:
    """The tokens of both, one after the other (a space divides them), and where the completion begins."""
    first, second = (tokenizer(text)["input_ids"] for text in (prompt, completion))
    return [*first, *second, *([tokenizer.eos_token_id] if end else [])], len(first)


def _truth(models: list[Any], tokenizer: Any, pairs: Any, queries: Any, **options: Any) -> Tensor:
    total = torch.zeros(len(queries), len(pairs), dtype=torch.float64)
    for model, weight in zip(models, WEIGHTS, strict=False):
        free = untied(model)
        asked, rows = (
            [causal_gradient(free, *_ids(tokenizer, *pair), **options)[0] for pair in side] for side in (queries, pairs)
        )
        total += weight * products(asked, rows)
    return total


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
def test_scores_equal_dense_autograd_on_the_input_side(kind: str, tied: bool, tmp_path: Path) -> None:
    tokenizer = lm_tokenizer()
    models = [tiny_lm(kind, tied=tied, seed=seed) for seed in (0, 1)]
    run = run_of(tmp_path, models, tokenizer, pair_rows(), hw.CausalLM(max_length=32), PAIR_COLUMNS)
    index = hw.Index.build(run, dtype="float32")
    ours = index.scores([p for p, _ in QUERIES], [c for _, c in QUERIES])
    assert relative_error(torch.from_numpy(ours).double(), _truth(models, tokenizer, PAIRS, QUERIES)) < 1e-5
    np.testing.assert_array_equal(ours, index.scores(QUERIES))


def test_the_mean_over_tokens_is_another_loss_than_their_sum(tmp_path: Path) -> None:
    tokenizer, models = lm_tokenizer(), [tiny_lm("llama")]
    run = run_of(tmp_path, models, tokenizer, pair_rows(), hw.CausalLM(max_length=32, reduction="mean"), PAIR_COLUMNS)
    ours = torch.from_numpy(hw.Index.build(run, dtype="float32").scores(QUERIES)).double()
    assert relative_error(ours, _truth(models, tokenizer, PAIRS, QUERIES, mean=True)) < 1e-5
    assert relative_error(ours, _truth(models, tokenizer, PAIRS, QUERIES)) > 0.5


def test_plain_texts_count_whole_and_an_empty_label_asks_for_a_whole_text(tmp_path: Path) -> None:
    tokenizer, model = lm_tokenizer(end=False), tiny_lm("gpt2")
    texts = [prompt + end for prompt, end in PAIRS[:8]]
    task = hw.CausalLM(max_length=32, end=False)
    run = run_of(tmp_path, [model], tokenizer, [{"text": t} for t in texts], task, hw.Columns(label=None))
    index = hw.Index.build(run, dtype="float32")
    free = untied(model)
    rows = [causal_gradient(free, tokenizer(text)["input_ids"], 0)[0] for text in texts]
    truth = WEIGHTS[0] * products(rows[:3], rows)
    assert relative_error(torch.from_numpy(index.scores(texts[:3], [""] * 3)).double(), truth) < 1e-5
    np.testing.assert_array_equal(index.scores([(text, "") for text in texts[:3]]), index.scores(texts[:3], [""] * 3))


def test_a_conversation_counts_the_assistant_s_last_turn_and_the_end_of_it(tmp_path: Path) -> None:
    tokenizer, model = lm_tokenizer(), tiny_lm("llama")
    chats = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": end.strip()}]
        for prompt, end in PAIRS[:6]
    ]
    chats += [[{"role": "system", "content": "the river"}, *chat[:1], chat[1], *chat] for chat in chats[:2]]
    rows = [{"messages": chat} for chat in chats]
    run = run_of(tmp_path, [model], tokenizer, rows, hw.CausalLM(), hw.Columns(text="messages", label=None))
    index = hw.Index.build(run, dtype="float32")
    free, gradients = untied(model), []
    for chat in chats:
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        ids, before = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, prompt))
        assert ids[: len(before)] == before
        gradients.append(causal_gradient(free, ids, len(before))[0])
    truth = WEIGHTS[0] * products(gradients[:3], gradients)
    asked = [chat[:-1] for chat in chats[:3]], [chat[-1]["content"] for chat in chats[:3]]
    assert relative_error(torch.from_numpy(index.scores(*asked)).double(), truth) < 1e-5
    assert relative_error(torch.from_numpy(index.scores(chats[:3])).double(), truth) < 1e-5  # answered: that answer


def test_chat_true_puts_plain_prompts_into_the_template(tmp_path: Path) -> None:
    tokenizer, model = lm_tokenizer(), tiny_lm("llama")
    run = run_of(tmp_path / "a", [model], tokenizer, pair_rows(), hw.CausalLM(chat=True), PAIR_COLUMNS)
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, c in PAIRS]
    columns = hw.Columns(text="messages", label=None)
    same = run_of(tmp_path / "b", [model], tokenizer, [{"messages": c} for c in chats], hw.CausalLM(), columns)
    ours = hw.Index.build(run, dtype="float32").scores(QUERIES)
    asked = [[{"role": "user", "content": prompt}] for prompt, _ in QUERIES]
    np.testing.assert_array_equal(ours, hw.Index.build(same, dtype="float32").scores(asked, [c for _, c in QUERIES]))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_neither_the_tokenizer_s_padding_side_nor_batch_mates_change_a_score(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_lm(kind)
    task = hw.CausalLM(max_length=32)
    right, left = (
        run_of(tmp_path / side, [model], lm_tokenizer(side=side), pair_rows(), task, PAIR_COLUMNS)
        for side in ("right", "left")
    )
    scores = hw.Index.build(right, dtype="float32").scores(QUERIES)
    np.testing.assert_array_equal(scores, hw.Index.build(left, dtype="float32").scores(QUERIES))
    monkeypatch.setattr("headwater.attribution.passes.batch_tokens", lambda device: 1)
    alone = hw.Index.build(right, tmp_path / "alone", dtype="float32").scores(QUERIES[::-1])[::-1]
    assert np.abs(scores - alone).max() < 1e-5 * np.abs(scores).max()


def test_a_tokenizer_without_a_padding_token_will_do(tmp_path: Path) -> None:
    tokenizer, bare = lm_tokenizer(), lm_tokenizer()
    bare.pad_token = None
    model = tiny_lm("gpt2", pad_token_id=None)
    runs = [
        run_of(tmp_path / name, [model], made, pair_rows(), hw.CausalLM(max_length=32), PAIR_COLUMNS)
        for name, made in (("with", tokenizer), ("without", bare))
    ]
    one, other = (hw.Index.build(run, dtype="float32").scores(QUERIES) for run in runs)
    np.testing.assert_array_equal(one, other)


def test_a_padding_token_that_ends_texts_too_counts_as_in_dense_autograd(tmp_path: Path) -> None:
    """SmolLM2's pad is its end of turn: `padding_idx` holds the gradient of that row at zero, wherever it stands."""
    tokenizer = lm_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model = tiny_lm("llama", pad_token_id=tokenizer.eos_token_id)
    assert model.get_input_embeddings().padding_idx == tokenizer.eos_token_id
    task = hw.CausalLM(max_length=32, separator=" [SEP] ")
    run = run_of(tmp_path, [model], tokenizer, pair_rows(), task, PAIR_COLUMNS)
    ours = hw.Index.build(run, dtype="float32").scores(QUERIES)
    free, found = untied(model), []
    for prompt, completion in [*QUERIES, *PAIRS]:
        ids, first = _ids(tokenizer, prompt + " [SEP]", completion)
        found.append(causal_gradient(free, ids, first)[0])
    truth = WEIGHTS[0] * products(found[:3], found[3:])
    assert relative_error(torch.from_numpy(ours).double(), truth) < 1e-5
