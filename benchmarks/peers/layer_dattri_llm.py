"""dattri-LLM 0.1.0: its live gradient source with LoGra projection of the same size, blocks kept in memory.

A summed loss, and `materialized`: rows of 16 x 16 a layer are what is kept, not factors of 16 numbers a token. Modes:
`plain`   all parameters trainable, as in its examples: autograd makes their gradients too;
`frozen`  all but the word embeddings frozen, which its `include_frozen` is for.
"""

from __future__ import annotations

import re

import torch
from dattri_llm import AttributionArguments, HookManagerConfig
from dattri_llm.gradient.streaming import GradientStreamer
from layer_common import Pass, Task, serve, summed_loss
from torch import Tensor, nn
from torch.utils.data import Dataset


class RowsOf(Dataset):
    """The first so many rows, as the dicts that the library collates."""

    def __init__(self, task: Task, count: int) -> None:
        self.rows, self.count = task.rows, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        rows = self.rows
        return {"input_ids": rows.ids[row], "attention_mask": rows.mask[row], "labels": rows.labels[row]}


def prepare(task: Task) -> Pass:
    rows = task.rows
    frozen = task.mode == "frozen"
    model = rows.load().requires_grad_(not frozen)
    model.get_input_embeddings().requires_grad_(True)
    logra = {"style": "logra", "proj_dim": 16, "proj_type": "rademacher", "proj_max_batch_size": 8}
    config = HookManagerConfig(
        linear_io=[f"^{re.escape(name)}$" for name in rows.layers["blocks"]],
        capture_style="materialized",
        projection_kwargs={"__default__": logra},
        include_frozen=frozen,
    )
    arguments = AttributionArguments(
        output_dir=str(task.out / "dattri"), per_device_train_batch_size=rows.batch, use_cpu=True
    )
    task.notes["layers"] = len(rows.layers["blocks"])

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        longest = int(batch["attention_mask"].sum(dim=1).max())
        cut = {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask")}
        return summed_loss(model, cut | {"labels": batch["labels"]}, rows.kind)

    def once(count: int | None) -> Tensor:
        dataset = RowsOf(task, len(rows) if count is None else min(count * rows.batch, len(rows)))
        streamer = GradientStreamer(model, dataset, arguments, batch_size=rows.batch, loss_fn=loss, config=config)
        kept = []
        with streamer:
            for _, gradient, _ in streamer:
                kept.append(torch.cat([value.flatten(1) for value in gradient.data.values()], dim=1))
        if kept[0].shape[1] != len(rows.layers["blocks"]) * 16 * 16:
            raise SystemExit(f"a row has {kept[0].shape[1]} numbers")
        return torch.cat(kept)

    return once


if __name__ == "__main__":
    serve(prepare, ["dattri-llm", "dattri", "torch", "transformers"])
