"""What every worker shares: its arguments, the setting's arrays and models, and honest clocks.

A worker is one process for one library and one (Q, threads). It imports everything first (that time is told
apart), then does the work in named phases, then writes `result.json` and `scores.npy` [Q, N].
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EMBEDDING = "bert.embeddings.word_embeddings"


@dataclass
class Job:
    """One worker's task, and what it measured so far."""

    setting: Path
    out: Path
    queries: int
    threads: int
    mode: str
    batch: int  # rows in a batch; 0: the worker's own choice
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall and CPU seconds of a block to the phase `name`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        entry = self.phases.setdefault(name, {"wall": 0.0, "cpu": 0.0})
        entry["wall"] += time.perf_counter() - wall
        entry["cpu"] += time.process_time() - cpu

    def finish(self, scores: np.ndarray, *, packages: list[str]) -> None:
        """Write the scores [Q, N] and the measurements. The peak memory is read before the scores are saved."""
        result = {
            "phases": self.phases,
            "peak_rss": status("VmHWM"),
            "disk": sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file()),
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "notes": self.notes,
        }
        np.save(self.out / "scores.npy", np.asarray(scores, dtype=np.float32))
        (self.out / "result.json").write_text(json.dumps(result, indent=1))


@contextlib.contextmanager
def job() -> Iterator[Job]:
    """Parse the arguments; call it when everything is imported: what went before is the phase "import"."""
    imports = {"wall": _age(), "cpu": time.process_time()}
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--mode", default="")
    parser.add_argument("--batch", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    threads = int(os.environ["OMP_NUM_THREADS"])
    import torch

    torch.set_num_threads(threads)
    yield Job(
        setting=options.setting,
        out=options.out,
        queries=options.queries,
        threads=threads,
        mode=options.mode,
        batch=options.batch,
        phases={"import": imports},
    )


@dataclass(frozen=True)
class Arrays:
    """The setting as tensors. Rows [0, rows) train, the next `queries` are asked about."""

    ids: Any  # int64 [N + Q, T]
    mask: Any  # int64 [N + Q, T]
    labels: Any  # int64 [N + Q]
    rows: int  # N
    checkpoints: list[Path]
    weights: list[float]


def load_arrays(setting: Path, queries: int) -> Arrays:
    """Read the rows and the first `queries` queries."""
    import torch

    numbers = json.loads((setting / "setting.json").read_text())
    with np.load(setting / "arrays.npz") as file:
        ids, mask, labels = (
            torch.from_numpy(file[name][: numbers["rows"] + queries])
            for name in ("input_ids", "attention_mask", "labels")
        )
    weights = numbers["weights"]
    folders = [setting / f"checkpoint-{number + 1}" for number in range(len(weights))]
    return Arrays(ids, mask, labels, numbers["rows"], folders, weights)


def load_model(checkpoint: Path) -> Any:
    """The classifier of a checkpoint's folder, float32, in evaluation mode."""
    import torch
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()


def load_weights(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model that is there already."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint / "model.safetensors"))


def _age() -> float:
    """Seconds since this process started, to a hundredth."""
    after_name = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22: ticks since the machine started
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def status(key: str) -> int:
    """A memory figure of this process in bytes. VmHWM starts at exec; ru_maxrss would inherit the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
