"""step-decomposed-influence 0.1.1: TracIn with gradients sketched (TensorSketch) while backpropagating.

Not exact: its scores are estimates whose error shrinks with the size of the sketch. Rows are sorted by length and
batches cut to their longest row, and all but the embedding is frozen. Its features of the training rows are not
stored by its public API: asking again passes over the training rows again.
"""

from collections.abc import Iterator

import numpy as np
import torch
from common import EMBEDDING, Arrays, Job, job, load_arrays, load_model, load_weights
from sdi import CheckpointSpec, ProjectedTracInSDI
from torch.nn import functional
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = 16
SKETCH = 2048


class Batches:
    """Batches of the given rows in their order, each cut to its longest row; can be iterated again."""

    def __init__(self, arrays: Arrays, order: torch.Tensor, size: int) -> None:
        self.arrays, self.order, self.size = arrays, order, size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows in self.order.split(self.size):
            mask = self.arrays.mask[rows]
            longest = int(mask.sum(1).max())
            yield {
                "ids": self.arrays.ids[rows, :longest],
                "mask": mask[:, :longest],
                "labels": self.arrays.labels[rows],
            }


def losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    return functional.cross_entropy(logits, batch["labels"], reduction="none")


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    size = measured.notes["batch"] = measured.batch or BATCH
    measured.notes["sketch"] = SKETCH
    lengths = arrays.mask.sum(1)
    order = lengths[: arrays.rows].argsort(stable=True, descending=True)
    asked = torch.arange(arrays.rows, len(arrays.ids))
    with measured.phase("load"):
        model = load_model(arrays.checkpoints[0]).requires_grad_(False)
        embedding = model.get_submodule(EMBEDDING).requires_grad_(True)
    estimator = ProjectedTracInSDI(
        model=model, target_modules=[embedding], projection_size=SKETCH, loss_reduction="sum"
    )
    with measured.phase("attribute"):
        found = estimator.influence_across_checkpoints(
            checkpoints=[
                CheckpointSpec(folder, weight)
                for folder, weight in zip(arrays.checkpoints, arrays.weights, strict=True)
            ],
            train_loader=Batches(arrays, order, size),
            query_loader=Batches(arrays, asked, size),
            loss_fn=losses,
            mode="tracin",
            load_checkpoint_fn=lambda folder: {"folder": folder},
            load_model_state_dict_fn=lambda model, checkpoint: load_weights(model, checkpoint["folder"]),
        )
    scores = torch.zeros(len(asked), arrays.rows)
    scores[:, order] = found.tracin.T.float()
    return scores.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["step-decomposed-influence", "torch", "transformers"])


if __name__ == "__main__":
    main()
