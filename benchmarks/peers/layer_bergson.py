"""Bergson 2.5.1 with projection_dim=16, biases counted.

Causal language models: what its `build` runs once the model and the tokens are there (`collect_gradients`), which
writes its index to disk. It is for causal language models only; so a classifier's pass is ours, under its
`TraceCollector`, which keeps the rows in memory. Its hooks want [rows, places, width]: no pooler, no classifier.
As its own `build` does, all is frozen but the word embeddings.
"""

from __future__ import annotations

import shutil

import torch
from bergson.collection import collect_gradients
from bergson.collector.gradient_collectors import TraceCollector
from bergson.config import IndexConfig
from bergson.data import load_gradients
from bergson.gradients import GradientProcessor
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from layer_common import Pass, Task, serve, summed_loss
from torch import Tensor


def prepare(task: Task) -> Pass:
    model = task.rows.load().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    task.notes["layers"] = len(task.rows.layers["blocks"])
    return traced(task, model) if task.rows.kind == "classification" else built(task, model)


def traced(task: Task, model: torch.nn.Module) -> Pass:
    rows, names = task.rows, task.rows.layers["blocks"]

    def once(count: int | None) -> Tensor:
        collector = TraceCollector(
            model=model,
            processor=GradientProcessor(projection_dim=16, include_bias=True),
            target_modules=set(names),
            device="cpu",
            dtype=torch.float32,
        )
        with collector:
            for batch in rows.batches(count):
                summed_loss(model, batch, rows.kind).backward()
                model.zero_grad(set_to_none=True)
        return torch.cat([torch.cat(collector.mod_grads[name]) for name in names], dim=1)

    return once


def built(task: Task, model: torch.nn.Module) -> Pass:
    rows = task.rows
    disable_progress_bar()
    lengths = rows.mask.sum(dim=1).tolist()
    ids = [line[:length].tolist() for line, length in zip(rows.ids, lengths, strict=True)]
    inside = len(model.base_model_prefix) + 1  # it hooks the model below the head

    def once(count: int | None) -> Tensor:
        run = task.out / "index"
        shutil.rmtree(run.with_name("index.part"), ignore_errors=True)
        config = IndexConfig(run_path=str(run), model=str(rows.folder), projection_dim=16, include_bias=True)
        config.partial_run_path.mkdir(parents=True)
        kept = len(rows) if count is None else min(count * rows.batch, len(rows))
        collect_gradients(
            model=model,
            data=Dataset.from_dict({"input_ids": ids[:kept], "length": lengths[:kept]}),
            processor=GradientProcessor(projection_dim=16, include_bias=True),
            cfg=config,
            batches=[list(range(at, min(at + rows.batch, kept))) for at in range(0, kept, rows.batch)],
            target_modules={name[inside:] for name in rows.layers["blocks"]},
        )
        return torch.from_numpy(load_gradients(config.partial_run_path).copy())

    return once


if __name__ == "__main__":
    serve(prepare, ["bergson", "torch", "transformers"])
