"""What an index of a run will cost: time, disk and memory, from a short probe of the real thing.

    seconds = model loads + rows to do * (tokenizing a row + passing it, mean over short, middling and long rows)
    disk    = rows to do * bytes of a row's postings in the probe + the tokens of each segment + the table of examples
              (with `energy`: of the strongest postings of the probe's rows)
    memory  = this process with a model in it + the model's file while it is read + a range of postings, and a quarter
              for its growing + activations of a batch

What an interrupted build has already written costs nothing again.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel

from headwater.attribution.build import EXAMPLES, plan_tokens, special_tokens
from headwater.attribution.members import default_device
from headwater.errors import StoreError
from headwater.gradients import Batch, batch_tokens, encoded_batches, token_gradients
from headwater.runs import Checkpoint, Encoding, Run, text_task
from headwater.runs.conversation import is_conversation_type
from headwater.store import Manifest, PostingDtype, RowRange, StoredCheckpoint
from headwater.store.postings import Block, encode_block, strongest

_SAMPLE = 512  # rows that are tokenized, to learn how long rows are
_STRATA = 3  # short, middling and long rows: attention costs more a token in long ones
_SHARE = 0.02  # of the tokens of the whole job, this much is probed,
_LEAST = 256  # but so many tokens a batch: fewer would time the overhead of a pass
_SMALL = 2e10  # tokens times parameters: some seconds on any machine, and some megabytes
_TOKEN_BYTES = 16  # a segment's entry for a token that occurs: its number and where its postings begin
_FILE_BYTES = 1500  # header of a segment and its entry in the manifest


@dataclass(frozen=True)
class Estimate:
    """What a build still has to do. Zero seconds and bytes where the index is finished."""

    seconds: float
    disk_bytes: int
    """Still to be written."""
    memory_bytes: int
    """Of the whole process at its peak, on the CPU's side."""
    rows: int
    checkpoints: int
    probe_seconds: float
    built_bytes: int = 0
    """Already there, and kept."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Probe:
    """What a few dozen rows cost."""

    load_seconds: float
    row_seconds: float
    row_bytes: float
    held_bytes: float
    """A row's postings in memory, before the weakest of a range are dropped."""
    activation_bytes: float
    process_bytes: int


@dataclass(frozen=True)
class _Sample:
    """Encoded rows, evenly spaced over the corpus, by length."""

    encodings: list[Encoding]
    targets: list[int]
    row_seconds: float

    @property
    def mean_length(self) -> float:
        return sum(len(encoding.input_ids) for encoding in self.encodings) / len(self.encodings)


def estimate_index(
    run: Run,
    folder: Path,
    *,
    checkpoints: Sequence[Checkpoint],
    dtype: PostingDtype = "float16",
    max_words: int | None = None,
    energy: float | None = None,
    device: str | None = None,
) -> Estimate:
    """Estimate what building the index of `run` in `folder` still takes; the probe takes about 2% of that.

    Raises what `Index.build` would raise before its first pass: RunError, ModelError, DataError.
    """
    started = time.monotonic()
    device = device or default_device()
    plan = plan_tokens(run, checkpoints=checkpoints, dtype=dtype, max_words=max_words, energy=energy, device=device)
    todo, built = _missing(plan, folder)
    rows = sum(part.stop - part.start for _, part in todo)
    table = 0 if (folder / EXAMPLES).exists() else _table_bytes(run)
    if not todo:
        return Estimate(0.0, table, process_bytes(), len(run.corpus), len(checkpoints), 0.0, built)
    sample = _sample(run)
    budget = int(_SHARE * rows * sample.mean_length / (2 * _STRATA))
    probe = _probe(run, checkpoints[-1], sample, plan, device, budget)
    loads = len({checkpoint.name for checkpoint, _ in todo})
    kept = probe.row_bytes / probe.held_bytes if probe.held_bytes else 1.0
    tokens = sum(_distinct_tokens(sample, part.stop - part.start, kept) for _, part in todo)
    largest = max(part.stop - part.start for _, part in todo)
    return Estimate(
        seconds=loads * probe.load_seconds + rows * (probe.row_seconds + sample.row_seconds),
        disk_bytes=round(rows * probe.row_bytes + tokens * _TOKEN_BYTES + len(todo) * _FILE_BYTES) + table,
        memory_bytes=round(
            probe.process_bytes
            + max(_weight_bytes(checkpoint) for checkpoint in checkpoints)
            + 1.25 * largest * probe.held_bytes
            + probe.activation_bytes
        ),
        rows=len(run.corpus),
        checkpoints=len(checkpoints),
        probe_seconds=time.monotonic() - started,
        built_bytes=built,
    )


def is_small(run: Run, checkpoints: Sequence[Checkpoint]) -> bool:
    """Say whether an index takes so little that a probe would be a good part of it. Nothing is loaded."""
    letters = _letters(run)
    tokens = min(letters, len(run.corpus) * (run.task.max_length or letters))
    if any((checkpoint.path / "adapter_config.json").exists() for checkpoint in checkpoints):
        return False  # its files say nothing of the size of the model that it adapts
    return bool(tokens * sum(map(_weight_bytes, checkpoints)) / 4 < _SMALL)


def _letters(run: Run) -> int:
    """Count the characters of the texts; of conversations, which are no plain column, the bytes."""
    columns = run.corpus.columns
    names = [columns.text, columns.label if text_task(run.task) is not None else None]
    found = [run.corpus.table.column(name) for name in names if name is not None]
    return sum(c.nbytes if is_conversation_type(c.type) else pc.sum(pc.utf8_length(c)).as_py() for c in found)


def check_fits(estimate: Estimate, folder: Path) -> None:
    """Raise StoreError when the disk of `folder`, or memory, is too small for what is estimated."""
    check_disk(estimate.disk_bytes, folder)
    available = available_memory()
    if available is not None and estimate.memory_bytes - process_bytes() > available:
        raise StoreError(
            f"{folder}: the build needs about {_gigabytes(estimate.memory_bytes)} of memory, but only "
            f"{_gigabytes(available)} are available. Keep fewer words a row (--max-words 20), store --dtype int8, "
            "or end other programs."
        )


_LESS = (
    "--energy 0.999 keeps the strongest gradients, --max-words 20 the 20 strongest words of a row, --dtype int8 takes "
    "half of float16, int4 a quarter"
)


def check_disk(needed: int, folder: Path, *, less: str = _LESS) -> None:
    """Raise StoreError when the disk that `folder` is on has less than `needed` bytes free; `less` says what helps."""
    free = free_disk(folder)
    if needed > free:
        raise StoreError(
            f"{folder}: about {_gigabytes(needed)} are to be written, but only {_gigabytes(free)} are free there. "
            f"Choose a folder on another disk (--out), or write less: {less}."
        )


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that `folder` is, or will be, on."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return int(shutil.disk_usage(place).free)


def available_memory() -> int | None:
    """Return the bytes that this process can still take, a container's limit counted; None where that is unknown."""
    limits: list[int] = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if most != "max":
            limits.append(int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if not limits and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")))
    return min(limits, default=None)


def process_bytes() -> int:
    """Return the resident memory of this process; 0 where that is unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _missing(plan: Manifest, folder: Path) -> tuple[list[tuple[StoredCheckpoint, RowRange]], int]:
    """Return the segments that are not there yet, and the bytes of those that are."""
    todo, built = [], 0
    for checkpoint in plan.checkpoints:
        for rows in plan.ranges:
            path = folder / plan.segment_path(checkpoint, rows)
            if path.exists():
                built += path.stat().st_size
            else:
                todo.append((checkpoint, rows))
    return todo, built


def _weight_bytes(checkpoint: Checkpoint) -> int:
    return sum(file.stat().st_size for file in checkpoint.path.glob("*.safetensors"))


def _table_bytes(run: Run) -> int:
    """Return the size of the table of examples: that of the run's own, which has the same bytes, if it has one."""
    own = run.folder / "headwater" / "corpus.parquet"
    return own.stat().st_size if own.is_file() else int(run.corpus.table.nbytes)


def _sample(run: Run) -> _Sample:
    count = min(_SAMPLE, len(run.corpus))
    rows = [place * len(run.corpus) // count for place in range(count)]
    examples = [run.corpus[row] for row in rows]
    started = time.monotonic()
    encodings = run.task.encode(run.tokenizer, examples)
    seconds = (time.monotonic() - started) / count
    order = sorted(range(count), key=lambda place: len(encodings[place].input_ids))
    return _Sample([encodings[place] for place in order], [run.targets[rows[place]] for place in order], seconds)


def _probe(run: Run, checkpoint: Checkpoint, sample: _Sample, plan: Manifest, device: str, budget: int) -> _Probe:
    """Pass one small batch of each stratum twice: the first pass warms up and measures memory, the second is timed."""
    started = time.monotonic()
    model = checkpoint.load(device)
    load_seconds = time.monotonic() - started
    full = batch_tokens(device)
    seconds = activations = 0.0
    blocks: list[Block] = []
    batches = _strata_batches(run, sample, min(max(budget, _LEAST), full))
    saved = [_SavedBytes(model) for _ in batches]
    for batch, counter in zip(batches, saved, strict=True):
        with counter.counting():
            _pass(run, model, batch, plan)
    for batch, counter in zip(batches, saved, strict=True):
        rows, width = batch.inputs["input_ids"].shape
        started = time.monotonic()
        block = _pass(run, model, batch, plan)
        seconds += (time.monotonic() - started) / rows
        blocks.append(block)
        if device == "cpu":
            activations = max(activations, counter.bytes * max(full // (rows * width), 1))
    passed = [len(batch.inputs["input_ids"]) for batch in batches]
    stored, held = (_mean_bytes(blocks, passed, energy) for energy in (plan.energy, None))
    return _Probe(load_seconds, seconds / len(batches), stored, held, activations, process_bytes())


def _strata_batches(run: Run, sample: _Sample, tokens: int) -> list[Batch]:
    """Take a batch of about `tokens` padded tokens from the middle of each stratum of lengths."""
    count = len(sample.encodings)
    batches: list[Batch] = []
    for number in range(min(_STRATA, count)):
        start, stop = count * number // _STRATA, max(count * (number + 1) // _STRATA, count * number // _STRATA + 1)
        middle = (start + stop) // 2
        width = len(sample.encodings[middle].input_ids)
        half = max(tokens // width, 1) // 2
        first, last = max(middle - half, start), min(middle + half + 1, stop)
        chosen = range(first, last)
        encodings = [sample.encodings[place] for place in chosen]
        targets = [sample.targets[place] for place in chosen]
        batches += encoded_batches(run, encodings, targets, tokens=1 << 30)
    return batches


def _pass(run: Run, model: PreTrainedModel, batch: Batch, plan: Manifest) -> Block:
    (gradients,) = token_gradients(model, [batch], run.task.losses)
    return encode_block(gradients, dtype=plan.dtype, special=special_tokens(run), max_words=plan.max_words)


def _mean_bytes(blocks: Sequence[Block], rows: Sequence[int], energy: float | None) -> float:
    """Return what a row's postings take in a segment, the mean over strata of the same weight.

    With `energy`, what the strongest of all strata together take, as of a range.
    """
    kept = [np.ones(len(block.rows), dtype=np.bool_) for block in blocks]
    if energy is not None:
        joined = [np.concatenate([getattr(block, name) for block in blocks]) for name in ("norms", "rows", "tokens")]
        kept = np.split(
            strongest(joined[0], joined[1], joined[2], energy), np.cumsum([len(each) for each in kept])[:-1]
        )
    sizes = [
        np.count_nonzero(keep) * _posting_bytes(block) / count
        for block, keep, count in zip(blocks, kept, rows, strict=True)
    ]
    return float(np.mean(sizes))


def _posting_bytes(block: Block) -> int:
    """Return what a posting takes in a segment: row and norm are four bytes each, rank and exponent one."""
    return 9 + (0 if block.exponents is None else 1) + block.payload.shape[1] * block.payload.element_size()


def _distinct_tokens(sample: _Sample, rows: int, kept: float) -> int:
    """Guess how many different tokens `rows` rows hold: vocabularies grow about as the square root of the text."""
    seen = len({token for encoding in sample.encodings for token in encoding.input_ids})
    return round(seen * math.sqrt(kept * max(rows / len(sample.encodings), 1)))


class _SavedBytes:
    """Counts what a forward pass keeps for the backward pass, the model's own weights left out."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.bytes = 0

    def counting(self) -> AbstractContextManager[None]:
        """Return a context in which tensors that are saved are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
