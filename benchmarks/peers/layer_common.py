"""What every worker of layers.py shares: the rows, the model, and how it is asked for one pass at a time.

A worker imports, loads, passes over one batch to warm up, and says that it is ready. Then for every line on its input
it passes over all rows once and answers with its seconds, so that libraries take turns while all are ready. When its
input ends it writes `result.json` and `dots.npy`: the dot products of the rows' gradients, of its last pass.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import status
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

NO_TARGET = -100


@dataclass(frozen=True)
class Rows:
    """The rows, the longest first. Batches are of so many rows, each cut to its longest."""

    kind: str
    folder: Path
    ids: Tensor
    """int64 [N, T]"""
    mask: Tensor
    labels: Tensor
    batch: int
    layers: dict[str, list[str]]
    """Names of linear layers: "blocks", and "all"."""

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, count: int | None = None) -> list[dict[str, Tensor]]:
        """The first so many batches; None: all."""
        starts = list(range(0, len(self), self.batch))[:count]
        return [self.take(torch.arange(start, min(start + self.batch, len(self)))) for start in starts]

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        longest = int(self.mask[rows].sum(dim=1).max())
        ids, mask = self.ids[rows, :longest], self.mask[rows, :longest]
        return {"rows": rows, "input_ids": ids, "attention_mask": mask, "labels": self.labels[rows]}

    def load(self) -> Any:
        """The model, float32, in evaluation mode."""
        auto = AutoModelForCausalLM if self.kind == "causal-lm" else AutoModelForSequenceClassification
        return auto.from_pretrained(self.folder, dtype=torch.float32).eval()


def token_targets(batch: dict[str, Tensor]) -> Tensor:
    """What a language model is to say: the row itself, padding aside."""
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, NO_TARGET)


def summed_loss(model: nn.Module, batch: dict[str, Tensor], kind: str) -> Tensor:
    """The sum of the rows' losses: of the label, or of every token after the first."""
    more = {"use_cache": False} if kind == "causal-lm" else {}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **more).logits
    if kind == "classification":
        return functional.cross_entropy(logits, batch["labels"], reduction="sum")
    ahead = token_targets(batch)[:, 1:]
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ahead.flatten(), reduction="sum")


@dataclass
class Task:
    """One worker's task."""

    rows: Rows
    out: Path
    mode: str
    notes: dict[str, Any] = field(default_factory=dict)


Pass = Callable[[int | None], Tensor | None]
"""Over the first so many batches (None: all); returns the rows' projected gradients [N, K], if it makes any."""


def dot_products(rows: Tensor) -> Tensor:
    return rows @ rows.T


def serve(
    prepare: Callable[[Task], Pass], packages: Sequence[str], dots: Callable[[Tensor], Tensor] = dot_products
) -> None:
    """Run a worker: see the top of this file."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", default="")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    options.out.mkdir(parents=True, exist_ok=True)
    task = Task(read_rows(options.setting), options.out, options.mode)
    once = prepare(task)
    once(1)
    print(json.dumps({"ready": True}), file=answers)
    found: Tensor | None = None
    for _ in sys.stdin:
        found = None  # the last pass' rows are not kept beside the next ones
        wall, cpu = time.perf_counter(), time.process_time()
        found = once(None)
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), file=answers)
    result = {
        "peak": status("VmHWM"),
        "row_bytes": None if found is None else found.shape[1] * found.element_size(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "notes": task.notes,
    }
    if found is not None:
        np.save(options.out / "dots.npy", dots(found).numpy())
    (options.out / "result.json").write_text(json.dumps(result, indent=1))


def read_rows(setting: Path) -> Rows:
    numbers = json.loads((setting / "setting.json").read_text())
    with np.load(setting / "arrays.npz") as file:
        ids, mask, labels = (torch.from_numpy(file[name]) for name in ("input_ids", "attention_mask", "labels"))
    layers = {which: numbers[which] for which in ("blocks", "all")}
    return Rows(numbers["kind"], Path(numbers["folder"]), ids, mask, labels, numbers["batch"], layers)
