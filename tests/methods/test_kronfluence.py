"""An outside oracle: kronfluence without curvature is TracIn on linear layers.

Not among the test dependencies, for it asks for torchvision, which it does not need here:
pip install --no-deps kronfluence einconv einops opt_einsum
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS
from headwater.gradients.layers import Projector
from methods.conftest import LABELS, QUERIES

pytest.importorskip("kronfluence", reason="kronfluence is not installed")


def _kronfluence(run: hw.Run, tokenizer: PreTrainedTokenizerFast, folder: Path) -> np.ndarray:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task

    class Loss(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch, model, sample=False):
            ids, mask, targets = batch
            return cross_entropy(model(input_ids=ids, attention_mask=mask).logits, targets, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    def encoded(texts: Sequence[str], labels: Sequence[str]) -> TensorDataset:
        found = tokenizer(list(texts), padding=True, return_tensors="pt")
        targets = torch.tensor([builders.LABEL2ID[label] for label in labels])
        return TensorDataset(found["input_ids"], found["attention_mask"], targets)

    rows = encoded([example.text for example in run.corpus], [str(example.label) for example in run.corpus])
    asked = encoded(QUERIES, LABELS)
    task = Loss()
    model = prepare_model(run.checkpoints[0].load().eval(), task)
    analyzer = Analyzer("test", model, task, cpu=True, disable_tqdm=True, output_dir=str(folder))
    factors = FactorArguments(strategy="identity")
    analyzer.fit_all_factors("f", rows, per_device_batch_size=8, factor_args=factors)
    analyzer.compute_pairwise_scores(
        "s", "f", asked, rows, per_device_query_batch_size=len(QUERIES), per_device_train_batch_size=8
    )
    found: np.ndarray = analyzer.load_pairwise_scores("s")["all_modules"].numpy()
    return found


def test_tracin_on_all_linear_layers_agrees(run: hw.Run, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    linear = "*.query,*.key,*.value,*.dense,classifier"
    exact = Projector(exact_below=1 << 30)
    index = hw.Index.build(run, tmp_path / "i", method="tracin", layers=linear, projector=exact, dtype="float32")
    ours = index.scores(QUERIES, LABELS, method="tracin", checkpoints=("checkpoint-1",)) / WEIGHTS[0]
    theirs = _kronfluence(run, tokenizer, tmp_path / "k")
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
