"""Captum 0.9.0 TracInCPFast for quality.py: the last linear layer, without its bias, over all checkpoints.

Each checkpoint counts with the run's weight (its learning rates), which is what the loader returns. Positive: a step on
the row lowers the query's loss.
"""

from __future__ import annotations

import numpy as np
import torch
from captum.influence import TracInCPFast
from common import Arrays, Job, job, load_arrays, load_model, load_weights
from torch.utils.data import TensorDataset
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = 32


class Logits(torch.nn.Module):
    """Captum calls model(*batch[:-1]) and wants a tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    rows = arrays.rows
    weight_of = {str(folder): weight for folder, weight in zip(arrays.checkpoints, arrays.weights, strict=True)}
    folder_of = {str(folder): folder for folder in arrays.checkpoints}
    with measured.phase("load"):
        model = Logits(load_model(arrays.checkpoints[0]))

    def load(wrapped: Logits, checkpoint: str) -> float:
        load_weights(wrapped.model, folder_of[checkpoint])
        return weight_of[checkpoint]

    measured.notes["weights"] = f"last linear layer, {len(weight_of)} checkpoints"
    tracin = TracInCPFast(
        model,
        model.model.classifier,
        TensorDataset(arrays.ids[:rows], arrays.mask[:rows], arrays.labels[:rows]),
        list(weight_of),
        checkpoints_load_func=load,
        loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"),
        batch_size=BATCH,
    )
    with measured.phase("attribute"):
        scores = tracin.influence((arrays.ids[rows:], arrays.mask[rows:], arrays.labels[rows:]))
    return scores.detach().numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["captum", "torch", "transformers"])


if __name__ == "__main__":
    main()
