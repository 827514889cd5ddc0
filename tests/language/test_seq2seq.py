"""Sequence-to-sequence models: both lookups of the embedding matrix count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.errors import DataError, ModelError
from headwater.gradients import encoded_batches
from headwater.gradients.tokens import place_gradients
from language.texts import (
    PAIR_COLUMNS,
    PAIRS,
    QUERIES,
    bert_tokenizer,
    pair_rows,
    products,
    run_of,
    seq2seq_gradient,
    tiny_lm,
    untied,
)
from oracle import relative_error

WEIGHTS = (1e-2, 5e-3)


@pytest.mark.parametrize(("kind", "tied"), [("t5", True), ("t5", False), ("bart", True)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scores_equal_dense_autograd_on_the_input_side(kind: str, tied: bool, reduction: str, tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    models = [tiny_lm(kind, tied=tied, seed=seed) for seed in (0, 1)]
    task = hw.Seq2Seq(max_length=32, reduction=reduction)
    run = run_of(tmp_path, models, tokenizer, pair_rows(), task, PAIR_COLUMNS)
    ours = hw.Index.build(run, dtype="float32").scores([p for p, _ in QUERIES], [c for _, c in QUERIES])
    truth = torch.zeros(len(QUERIES), len(PAIRS), dtype=torch.float64)
    for model, weight in zip(models, WEIGHTS, strict=True):
        free = untied(model)
        asked, rows = (
            [
                seq2seq_gradient(
                    free, tokenizer(s)["input_ids"], tokenizer(text_target=t)["input_ids"], mean=reduction == "mean"
                )[0]
                for s, t in side
            ]
            for side in (QUERIES, PAIRS)
        )
        truth += weight * products(asked, rows)
    assert relative_error(torch.from_numpy(ours).double(), truth) < 1e-5


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_batch_mates_do_not_change_a_score(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, [tiny_lm(kind)], bert_tokenizer(), pair_rows(), hw.Seq2Seq(), PAIR_COLUMNS)
    together = hw.Index.build(run, dtype="float32").scores(QUERIES)
    monkeypatch.setattr("headwater.attribution.passes.batch_tokens", lambda device: 1)
    alone = hw.Index.build(run, tmp_path / "alone", dtype="float32").scores(QUERIES[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-5 * np.abs(together).max()


def test_a_decoder_s_places_come_after_its_encoder_s(tmp_path: Path) -> None:
    run = run_of(tmp_path, [tiny_lm("t5")], bert_tokenizer(), pair_rows(), hw.Seq2Seq(), PAIR_COLUMNS)
    encodings = run.task.encode(run.tokenizer, list(run.corpus), offsets=True)
    batches = encoded_batches(run, encodings, run.targets)
    for found in place_gradients(run.checkpoints[0].load(), batches, run.task.losses):
        seen: dict[int, dict[int, int]] = {}
        for row, place, token in zip(found.rows.tolist(), found.places.tolist(), found.tokens.tolist(), strict=True):
            seen.setdefault(row, {})[place] = token
        for row, tokens in seen.items():
            assert [tokens[place] for place in sorted(tokens)] == encodings[row].looked_up
            assert len(encodings[row].parts or []) == len(encodings[row].looked_up)


def test_equal_source_and_target_are_told_apart(tmp_path: Path) -> None:
    """An autoencoder whose decoder begins with what its encoder begins with: both lookups hold the same tokens."""
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    model = tiny_lm("bart", decoder_start_token_id=tokenizer.convert_tokens_to_ids("the"))
    pairs = [("the baker loves", "baker loves bread"), ("the heron hates", "heron hates rain")]
    run = run_of(tmp_path, [model], tokenizer, pair_rows(pairs), hw.Seq2Seq(), PAIR_COLUMNS)
    encodings = run.task.encode(run.tokenizer, list(run.corpus), offsets=True)
    assert encodings[0].input_ids == encodings[0].decoder_input_ids
    (found,) = place_gradients(run.checkpoints[0].load(), encoded_batches(run, encodings, run.targets), run.task.losses)
    assert sorted(found.places[found.rows == 0].tolist()) == list(range(6))
    (item,) = hw.Index.build(run).query(pairs[:1], k=2)
    assert any(span.part == 1 for row in item.proponents for pair in row.words for span in pair.query_spans)


def test_targets_are_cut_at_their_own_length(tmp_path: Path) -> None:
    task = hw.Seq2Seq(max_length=32, max_target_length=3, start_token=0)
    corpus = hw.Corpus.read(pair_rows(), PAIR_COLUMNS)
    encoding = task.encode(bert_tokenizer(), [corpus[0]])[0]
    assert len(encoding.targets or []) == len(encoding.decoder_input_ids or []) == 3 and encoding.truncated


def test_a_decoder_that_shifts_in_its_own_way_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, [tiny_lm("bart")], bert_tokenizer(), pair_rows(), hw.Seq2Seq(), PAIR_COLUMNS)
    model: Any = run.checkpoints[0].load()
    model.config.decoder_start_token_id = 7
    (batch,) = encoded_batches(run, run.task.encode(run.tokenizer, list(run.corpus)), run.targets)
    with pytest.raises(ModelError, match="moves its targets in a way of its own"):
        run.task.losses(model, batch.inputs, batch.targets)


def test_a_row_without_a_target_and_a_model_without_a_start_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs labels"):
        rows = [{"prompt": "the baker"}]
        run_of(tmp_path, [tiny_lm("t5")], bert_tokenizer(), rows, hw.Seq2Seq(), hw.Columns(text="prompt", label=None))
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        hw.Seq2Seq().check_model(tiny_lm("t5", decoder_start_token_id=None, bos_token_id=None).config)


def test_lookups_of_matrices_of_their_own_are_an_error(tmp_path: Path) -> None:
    """Untied, BART's encoder and decoder each look up a matrix that is not the model's input matrix."""
    run = run_of(tmp_path, [tiny_lm("bart", tied=False)], bert_tokenizer(), pair_rows(), hw.Seq2Seq(), PAIR_COLUMNS)
    with pytest.raises(ModelError, match="matrices of their own"):
        hw.Index.build(run)
