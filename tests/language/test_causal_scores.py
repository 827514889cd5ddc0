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
