"""Masked language models: a fixed mask makes the loss a function of the row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

import headwater as hw
from headwater.errors import DataError, ModelError, UsageError
from headwater.runs.task import NO_TARGET
from headwater.training import TrainSettings, retrain, train
from language.texts import PAIRS, bert_tokenizer, lm_tokenizer, products, run_of, tiny_lm, untied
from oracle import relative_error

TEXTS = [prompt + end for prompt, end in PAIRS[:10]]
PLAIN = hw.Columns(label=None)


def _run(folder: Path, task: hw.MaskedLM, texts: list[str] = TEXTS) -> hw.Run:
    return run_of(folder, [tiny_lm("bert")], bert_tokenizer(), [{"text": text} for text in texts], task, PLAIN)


def test_scores_equal_dense_autograd_of_the_masked_text(tmp_path: Path) -> None:
    run = _run(tmp_path, hw.MaskedLM(probability=0.3))
    ours = hw.Index.build(run, dtype="float32").scores(TEXTS[:3])
    free = untied(tiny_lm("bert"))
    gradients = []
    for encoding in run.task.encode(run.tokenizer, list(run.corpus)):
        assert encoding.targets is not None
        places = [at for at, target in enumerate(encoding.targets) if target != NO_TARGET]
        assert places and all(encoding.input_ids[at] == run.tokenizer.mask_token_id for at in places)
        logits = free(input_ids=torch.tensor([encoding.input_ids])).logits[0]
        loss = sum(-log_softmax(logits[at], dim=-1)[encoding.targets[at]] for at in places)
        gradients.append(torch.autograd.grad(loss, free.get_input_embeddings().weight)[0])
    truth = 1e-2 * products(gradients[:3], gradients)
    assert relative_error(torch.from_numpy(ours).double(), truth) < 1e-5


def test_a_mask_follows_from_the_text_and_the_seed_alone(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    corpus = hw.Corpus.read([{"text": text} for text in TEXTS], PLAIN)
    turned = hw.Corpus.read([{"text": text} for text in TEXTS[::-1]], PLAIN)
    masked = [e.input_ids for e in hw.MaskedLM().encode(tokenizer, list(corpus))]
    assert masked == [e.input_ids for e in hw.MaskedLM().encode(tokenizer, list(turned))][::-1]
    assert masked != [e.input_ids for e in hw.MaskedLM(seed=1).encode(tokenizer, list(corpus))]
    many = hw.MaskedLM(probability=0.5).encode(tokenizer, list(corpus))
    shares = [sum(t != NO_TARGET for t in e.targets or []) / (len(e.input_ids) - 2) for e in many]
    assert all(abs(share - 0.5) < 0.1 for share in shares)
    a, b = (hw.Index.build(_run(tmp_path / n, hw.MaskedLM())).scores(TEXTS[:2]) for n in ("a", "b"))
    np.testing.assert_array_equal(a, b)


def test_words_that_are_read_have_scores_and_masked_ones_are_special(tmp_path: Path) -> None:
    index = hw.Index.build(_run(tmp_path, hw.MaskedLM(probability=0.3)), dtype="float32")
    (item,) = index.query(TEXTS[:1], k=5)
    assert item.query.given and item.query.label == TEXTS[0]
    for influence in item.proponents:
        assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)
        masked = [pair for pair in influence.words if pair.train == "[MASK]"]
        assert all(pair.special and not pair.train_spans for pair in masked)


def test_what_cannot_be_masked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="learns from texts alone"):
        run_of(
            tmp_path, [tiny_lm("bert")], bert_tokenizer(), [{"text": "a", "label": "b"}], hw.MaskedLM(), hw.Columns()
        )
    with pytest.raises(ModelError, match="no mask token"):
        hw.MaskedLM().encode(lm_tokenizer(), [])
    with pytest.raises(ModelError, match="no masked language model"):
        hw.MaskedLM().check_model(tiny_lm("llama").config)
    with pytest.raises(UsageError, match="probability"):
        hw.MaskedLM(probability=0.0)


def test_a_training_on_fixed_masks_is_repeated_to_the_bit(tmp_path: Path) -> None:
    tiny_lm("bert").save_pretrained(tmp_path / "base")
    bert_tokenizer().save_pretrained(tmp_path / "base")
    corpus = hw.Corpus.read([{"text": text} for text in TEXTS], PLAIN)
    settings = TrainSettings(model=str(tmp_path / "base"), epochs=3, batch_size=4, learning_rate=1e-2)
    run = train(corpus, hw.MaskedLM(), tmp_path / "run", settings)
    again, last = retrain(run), run.checkpoints[-1].load()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), last.parameters(), strict=True))
