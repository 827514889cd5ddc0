"""Prediction: in the corpus's order, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headwater.errors import DataError
from headwater.runs import Columns, Corpus, Run
from headwater.training import predict


def test_logits_are_those_of_each_text_alone(run: Run, corpus: Corpus) -> None:
    model = run.checkpoints[-1].load()
    predictions = predict(model, run.tokenizer, run.task, corpus, batch_tokens=50)
    for row in corpus:
        inputs = run.tokenizer(row.text, return_tensors="pt")
        with torch.no_grad():
            alone = model(**inputs).logits[0].numpy()
        np.testing.assert_allclose(predictions.logits[row.row], alone, rtol=1e-4, atol=1e-5)
    labels = [row.label for row in corpus]
    assert predictions.accuracy == np.mean([a == b for a, b in zip(predictions.predicted, labels, strict=True)])


def test_losses_and_probabilities_follow_from_the_logits(run: Run, corpus: Corpus) -> None:
    predictions = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, corpus)
    logits = torch.from_numpy(predictions.logits)
    targets = torch.tensor([run.label2id[str(row.label)] for row in corpus])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy()
    np.testing.assert_allclose(predictions.losses, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(predictions.true_probabilities, np.exp(-expected), rtol=1e-5)


def test_a_corpus_without_labels_is_predicted_but_not_graded(run: Run, corpus: Corpus) -> None:
    texts = Corpus.read([{"text": row.text} for row in corpus], Columns(label=None))
    predictions = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, texts)
    assert len(predictions.predicted) == len(corpus)
    with pytest.raises(DataError, match="without labels"):
        _ = predictions.accuracy


def test_the_model_s_mode_is_put_back(run: Run, corpus: Corpus) -> None:
    model = run.checkpoints[-1].load().train()
    first = predict(model, run.tokenizer, run.task, corpus).logits
    assert model.training
    np.testing.assert_array_equal(first, predict(model.eval(), run.tokenizer, run.task, corpus).logits)
