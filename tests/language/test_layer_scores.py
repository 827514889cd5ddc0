"""Layer gradients of language models, through texts: the true gradient of every parameter, adapters, words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

import headwater as hw
from headwater.errors import HeadwaterWarning, UsageError
from headwater.gradients.layers import Projector
from headwater.models.load import load_model
from headwater.training import TrainSettings, train
from language.texts import (
    PAIR_COLUMNS,
    PAIRS,
    QUERIES,
    bert_tokenizer,
    lm_tokenizer,
    pair_rows,
    run_of,
    tiny_lm,
)
from oracle import relative_error

WEIGHTS = (1e-2, 5e-3)
EXACT = Projector(exact_below=1 << 30)


def _flat(model: Any, loss: Tensor, part: str) -> Tensor:
    chosen = [value for name, value in model.named_parameters() if part in name]
    for value in chosen:
        value.requires_grad_(True)
    found = torch.autograd.grad(loss, chosen, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, chosen, strict=True)]
    ).double()


def _causal(model: Any, tokenizer: Any, pair: tuple[str, str], part: str = "") -> Tensor:
    first, second = (tokenizer(text)["input_ids"] for text in pair)
    ids = [*first, *second, tokenizer.eos_token_id]
    for value in model.parameters():
        value.requires_grad_(True)
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    loss = torch.stack([-log_softmax(logits[t - 1], dim=-1)[ids[t]] for t in range(len(first), len(ids))]).sum()
    return _flat(model, loss, part)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_tracin_over_all_layers_of_a_causal_model_is_the_product_of_all_parameters(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    tokenizer = lm_tokenizer()
    models = [tiny_lm(kind, tied=tied, seed=seed) for seed in (0, 1)]
    run = run_of(tmp_path, models, tokenizer, pair_rows(), hw.CausalLM(max_length=32), PAIR_COLUMNS)
    index = hw.Index.build(run, method="tracin", tied="joint", projector=EXACT, dtype="float32")
    truth = torch.zeros(len(QUERIES), len(PAIRS), dtype=torch.float64)
    for model, weight in zip(models, WEIGHTS, strict=True):
        model = model.double()
        asked, rows = (torch.stack([_causal(model, tokenizer, pair) for pair in side]) for side in (QUERIES, PAIRS))
        truth += weight * asked @ rows.T
    ours = index.scores(QUERIES, method="tracin")
    assert relative_error(torch.from_numpy(ours).double(), truth) < 1e-4
    for influence in index.query(QUERIES[:1], k=2, method="tracin")[0].proponents:
        parts = {span.part for pair in influence.words for span in pair.train_spans}
        assert parts == {0, 1}  # words of prompt and completion
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_have_scores_and_say_what_no_word_carries(kind: str, tmp_path: Path) -> None:
    models = [tiny_lm(kind, tied=False, seed=seed) for seed in (0, 1)]
    run = run_of(tmp_path, models, bert_tokenizer(), pair_rows(), hw.Seq2Seq(max_length=32), PAIR_COLUMNS)
    index = hw.Index.build(run, method="tracin", layers="*encoder*", projector=EXACT, dtype="float32")
    for influence in index.query(QUERIES[:1], k=3, method="tracin")[0].proponents:
        assert {span.part for pair in influence.words for span in pair.train_spans} == {0}
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)


def test_of_a_lora_run_the_scores_speak_of_the_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = tmp_path / "base"
    tiny_lm("llama").save_pretrained(base)
    tokenizer = lm_tokenizer()
    tokenizer.save_pretrained(base)
    settings = TrainSettings(
        model=str(base), epochs=3, learning_rate=5e-2, batch_size=4, max_length=32, lora=True, lora_rank=2
    )
    corpus = hw.Corpus.read(pair_rows(), PAIR_COLUMNS)
    with pytest.warns(HeadwaterWarning, match="LoRA"):
        run = train(corpus, hw.CausalLM(), tmp_path / "run", settings)
    index = hw.Index.build(run, method="tracin", projector=EXACT, dtype="float32", checkpoints="last")
    model = load_model(run.checkpoints[-1].path, run.task.auto, merge=False).double().eval()
    asked, rows = (
        torch.stack([_causal(model, tokenizer, pair, "lora_") for pair in side]) for side in (QUERIES, PAIRS)
    )
    ours = torch.from_numpy(index.scores(QUERIES, method="tracin")).double()
    assert relative_error(ours, run.checkpoints[-1].weight * asked @ rows.T) < 1e-4


def test_methods_of_classes_refuse_language_models(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, [tiny_lm("gpt2")], lm_tokenizer(), pair_rows(), hw.CausalLM(max_length=32), PAIR_COLUMNS, weights=(1,)
    )
    with pytest.raises(UsageError, match="classes"):
        hw.Index.build(run, method="influence-last")
    index = hw.Index.build(run, method="representation-cosine")
    assert index.scores(QUERIES, method="representation-cosine").shape == (3, len(PAIRS))
    with pytest.raises(UsageError, match="classes"):
        index.scores(QUERIES, method="tfidf-label")
