"""Captum 0.9.0: TracInCP on the embedding layer.

Its fast path (`sample_wise_grads_per_batch=True`) refuses nn.Embedding, so every example's dense V x E gradient
is made by a backward pass of its own. Nothing is kept between questions: asking again costs the same again.
It loads the checkpoint anew for every batch, so we hand it weights that stay in memory.
"""

import numpy as np
import torch
from captum.influence import TracInCP
from common import EMBEDDING, Arrays, Job, job, load_arrays, load_model
from safetensors.torch import load_file
from torch.utils.data import TensorDataset
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = {False: 2, True: 8}  # by "many queries": with Q x V x E in memory, small batches read it too often


class Logits(torch.nn.Module):
    """Captum calls model(*batch[:-1]) and wants a tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    rows = arrays.rows
    with measured.phase("load"):
        model = Logits(load_model(arrays.checkpoints[0]))
        states = {str(folder): load_file(folder / "model.safetensors") for folder in arrays.checkpoints}
        weight_of = dict(zip(states, arrays.weights, strict=True))

    def load(wrapped: Logits, checkpoint: str) -> float:
        wrapped.model.load_state_dict(states[checkpoint])
        return weight_of[checkpoint]  # Captum multiplies by what the loader returns

    measured.notes["batch"] = measured.batch or BATCH[measured.queries > 10]
    tracin = TracInCP(
        model,
        TensorDataset(arrays.ids[:rows], arrays.mask[:rows], arrays.labels[:rows]),
        list(states),
        checkpoints_load_func=load,
        layers=["model." + EMBEDDING],
        loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
        batch_size=measured.notes["batch"],
        sample_wise_grads_per_batch=False,
    )
    with measured.phase("attribute"):
        scores = tracin.influence((arrays.ids[rows:], arrays.mask[rows:], arrays.labels[rows:]))
    return scores.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["captum", "torch", "transformers"])


if __name__ == "__main__":
    main()
