"""Captum 0.9.0 TracInCPFast: the last linear layer alone, and scores at once; it keeps no gradients.

One query, the first row, against all rows: what it does for each batch of rows, it does for the query again.
"""

from __future__ import annotations

import torch
from captum.influence import TracInCPFast
from layer_common import Pass, Task, serve
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Logits(nn.Module):
    """Captum calls model(*batch[:-1]) and wants a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def prepare(task: Task) -> Pass:
    rows = task.rows
    model = Logits(rows.load())
    task.notes["layers"] = 1

    def columns(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return batch["input_ids"], batch["attention_mask"], batch["labels"]

    def once(count: int | None) -> Tensor:
        batches = [columns(batch) for batch in rows.batches(count)]
        tracin = TracInCPFast(
            model,
            "model." + rows.layers["all"][-1],
            DataLoader(batches, batch_size=None),
            ["as it is"],
            checkpoints_load_func=lambda model, checkpoint: 1.0,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        )
        return tracin.influence(columns(rows.take(torch.tensor([0]))))

    return once


if __name__ == "__main__":
    serve(prepare, ["captum", "torch", "transformers"], dots=lambda scores: scores.detach())
