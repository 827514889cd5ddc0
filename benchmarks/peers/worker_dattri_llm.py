"""dattri-LLM 0.1.0 in its best way for this work: token rows, factorized capture, a summed loss.

It has no learning-rate weights: the rows of each checkpoint are weighted by hand. Modes:
`plain`  batches of 32 rows padded to T, all parameters trainable: its documented use;
`tuned`  rows sorted by length, batches cut to their longest row, all but the embedding frozen;
`stored` as tuned, but rows are first collected on disk (`cache`) and then scored (`attribute_from_cache`).
"""

import numpy as np
import torch
from common import EMBEDDING, Arrays, Job, job, load_arrays, load_model, load_weights
from dattri_llm import (
    AttributionArguments,
    AttributionScore,
    AttributionTask,
    HookManagerConfig,
    TracInAttributor,
)
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

BATCH = {"plain": 32, "tuned": 64, "stored": 64}


class Rows(Dataset):
    """The given rows as the dicts that the library collates."""

    def __init__(self, arrays: Arrays, order: torch.Tensor) -> None:
        self.arrays, self.order = arrays, order.tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = self.order[number]
        arrays = self.arrays
        return {"input_ids": arrays.ids[row], "attention_mask": arrays.mask[row], "labels": arrays.labels[row]}


def summed_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """With a mean, a short last batch would count for more."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return functional.cross_entropy(logits, batch["labels"], reduction="sum")


def summed_loss_cut(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    longest = int(batch["attention_mask"].sum(1).max())
    cut = {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask")}
    return summed_loss(model, cut | {"labels": batch["labels"]})


def weighted(score: AttributionScore, weights: list[float], first: dict[str, int]) -> torch.Tensor:
    """Sum token rows into one row a training example, weighting each checkpoint; [len(first), Q]."""
    for row in score.row_train_ids:
        first.setdefault(row, len(first))
    examples = torch.tensor([first[row] for row in score.row_train_ids])
    factors = torch.tensor(weights)[torch.tensor(score.row_steps)]
    total = torch.zeros(len(first), score.scores.shape[1])
    return total.index_add_(0, examples, score.scores * factors[:, None])


def attribute(measured: Job, arrays: Arrays) -> np.ndarray:
    plain = measured.mode == "plain"
    queries = len(arrays.ids) - arrays.rows
    batch = measured.notes["batch"] = measured.batch or BATCH[measured.mode]
    with measured.phase("load"):
        model = load_model(arrays.checkpoints[0])
        if not plain:
            model.requires_grad_(False)
            model.get_submodule(EMBEDDING).requires_grad_(True)
    lengths = arrays.mask[: arrays.rows].sum(1)
    order = torch.arange(arrays.rows) if plain else lengths.argsort(stable=True, descending=True)
    train, asked = Rows(arrays, order), Rows(arrays, torch.arange(arrays.rows, arrays.rows + queries))
    task = AttributionTask(
        summed_loss if plain else summed_loss_cut,
        model,
        checkpoints=arrays.checkpoints,
        checkpoints_load_func=lambda model, checkpoint: load_weights(model, checkpoint) or model,
    )
    arguments = AttributionArguments(
        output_dir=str(measured.out / "dattri"),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=queries,
        use_cpu=True,
    )
    attributor = TracInAttributor(arguments, task=task)
    hooks = HookManagerConfig(hook_types={EMBEDDING: "linear_io"})
    seen: dict[str, int] = {}
    if measured.mode == "stored":
        with measured.phase("build"):
            stores = attributor.cache(train, asked, hook_config=hooks)
        total = torch.zeros(arrays.rows, queries)
        with measured.phase("score"):
            for train_store, query_store in stores:
                score = attributor.attribute_from_cache(train_store, query_store, attribution_granularity="token")
                total += weighted(score, arrays.weights, seen)
    else:
        with measured.phase("attribute"):
            score = attributor.attribute(train, asked, hook_config=hooks, attribution_granularity="token")
            total = weighted(score, arrays.weights, seen)
    scores = torch.zeros(queries, arrays.rows)
    scores[:, order] = total.T
    return scores.numpy()


def main() -> None:
    with job() as measured:
        arrays = load_arrays(measured.setting, measured.queries)
        scores = attribute(measured, arrays)
        measured.finish(scores, packages=["dattri-llm", "torch", "transformers"])


if __name__ == "__main__":
    main()
