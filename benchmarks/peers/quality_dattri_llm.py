"""dattri-LLM 0.1.0 EK-FAC for quality.py: all linear layers of the last checkpoint, gradients streamed.

Its Fisher information is the empirical one, of the rows' own labels. Damping is relative, a tenth of a layer's mean
eigenvalue, as for the others. Positive: a row that lowers the query's loss.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from common import Arrays, Job, job, load_arrays, load_model, load_weights
from dattri_llm import AttributionArguments, AttributionTask, EKFACAttributor, HookManagerConfig
from torch.utils.data import Dataset
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = 32


class Rows(Dataset):
    """The given rows as the dicts that the library collates."""

    def __init__(self, arrays: Arrays, start: int, stop: int) -> None:
        self.arrays, self.start, self.stop = arrays, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row, arrays = self.start + number, self.arrays
        return {"input_ids": arrays.ids[row], "attention_mask": arrays.mask[row], "labels": arrays.labels[row]}


def summed_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """With a mean, a short last batch would count for more."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum")


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    rows, every = arrays.rows, len(arrays.ids)
    with measured.phase("load"):
        model = load_model(arrays.checkpoints[-1])
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    task = AttributionTask(
        summed_loss,
        model,
        checkpoints=[arrays.checkpoints[-1]],
        checkpoints_load_func=lambda model, checkpoint: load_weights(model, checkpoint) or model,
    )
    arguments = AttributionArguments(
        output_dir=str(measured.out / "dattri"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=every - rows,
        use_cpu=True,
    )
    hooks = HookManagerConfig(linear_io=[f"^{re.escape(name)}$" for name in linear])
    with measured.phase("attribute"):
        found = EKFACAttributor(arguments, task=task).attribute(
            Rows(arrays, 0, rows), Rows(arrays, rows, every), hook_config=hooks, damping=0.1, relative_damping=True
        )
    measured.notes["weights"] = "all linear layers, last checkpoint"
    scores = torch.as_tensor(found.scores)  # [rows, queries], in the order of the rows where none repeats another
    if scores.shape != (rows, every - rows):
        raise SystemExit(f"scores are {tuple(scores.shape)}: some rows are the same")
    return scores.T.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["dattri-llm", "torch", "transformers"])


if __name__ == "__main__":
    main()
