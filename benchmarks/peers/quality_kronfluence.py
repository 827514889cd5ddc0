"""kronfluence 1.0.1 EK-FAC for quality.py: all linear layers of the last checkpoint.

The Fisher information is the true one, of labels drawn from the model (its default). Damping is its heuristic, a tenth
of a layer's mean eigenvalue, which Headwater's curvature methods take too; its default of 1e-8 is mode `default`.
Positive: a row that lowers the query's loss (kronfluence's own sign).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import Arrays, Job, job, load_arrays, load_model
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = 32


class Losses(Task):
    """The loss that was trained, summed over a batch; the same is measured of a query."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        ids, mask, labels = batch
        logits = model(input_ids=ids, attention_mask=mask).logits
        if sample:
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(dim=-1), num_samples=1).flatten()
        return functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    rows = arrays.rows
    torch.manual_seed(0)
    with measured.phase("load"):
        task = Losses()
        model = prepare_model(load_model(arrays.checkpoints[-1]), task)
    train = TensorDataset(arrays.ids[:rows], arrays.mask[:rows], arrays.labels[:rows])
    asked = TensorDataset(arrays.ids[rows:], arrays.mask[rows:], arrays.labels[rows:])
    folder = str(measured.out / "kronfluence")
    analyzer = Analyzer("quality", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
    with measured.phase("factors"):
        analyzer.fit_all_factors(
            "ekfac",
            train,
            per_device_batch_size=BATCH,
            factor_args=FactorArguments(strategy="ekfac"),
            overwrite_output_dir=True,
        )
    with measured.phase("score"):
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            asked,
            train,
            per_device_query_batch_size=len(asked),
            per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=1e-8 if measured.mode == "default" else None),
            overwrite_output_dir=True,
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    measured.notes["weights"] = "all linear layers, last checkpoint"
    return scores.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["kronfluence", "torch", "transformers"])


if __name__ == "__main__":
    main()
