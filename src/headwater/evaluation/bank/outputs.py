"""What one retrained model says of the queries, and the file that holds it.

margin = log(p / (1 - p)) = z_y - log sum_(c != y) exp z_c       p, z: probability and logit of the query's label
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Bool, Float, Float32, Int64
from safetensors.numpy import load, save
from torch.nn.functional import softplus
from transformers import PreTrainedModel

from headwater.errors import DataError, StoreError
from headwater.files import atomic_file, canonical_json, digest
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.runs.task import text_task
from headwater.training import evaluate, predict

_KEY = "headwater"


@dataclass(frozen=True)
class Outputs:
    """One number a query, of its label (of a language model: of its whole target text)."""

    losses: Float32[np.ndarray, " queries"]
    """Cross entropy in nats, without label smoothing or class weights; of a text, the sum over its tokens."""
    probabilities: Float32[np.ndarray, " queries"]
    margins: Float32[np.ndarray, " queries"]
    """Log-odds of the label."""
    logits: Float32[np.ndarray, " queries"] | None = None
    """Of the label; None where the target is a text."""
    correct: Bool[np.ndarray, " queries"] | None = None
    """Whether the label is the one predicted; None where the target is a text."""

    @classmethod
    def of_logits(cls, logits: Float[np.ndarray, "queries classes"], targets: Int64[np.ndarray, " queries"]) -> Outputs:
        """Work everything out in float64."""
        wide = torch.from_numpy(np.asarray(logits, dtype=np.float64))
        labels = torch.from_numpy(np.asarray(targets, dtype=np.int64))[:, None]
        own = wide.gather(1, labels)[:, 0]
        margins = own - wide.scatter(1, labels, -torch.inf).logsumexp(dim=1)
        return cls(
            losses=_single(softplus(-margins)),  # -log p; 1 - p, if it is tiny, is not lost
            probabilities=_single(margins.sigmoid()),
            margins=_single(margins),
            logits=_single(own),
            correct=np.asarray(logits.argmax(axis=1) == targets),
        )

    @classmethod
    def of_sums(cls, sums: Float[np.ndarray, " queries"]) -> Outputs:
        """Work out of the losses of texts, in nats, what else there is. Certainty (loss 0) has margin infinity."""
        losses = torch.from_numpy(np.asarray(sums, dtype=np.float64))
        rest = (-torch.expm1(-losses)).log()  # log(1 - p)
        return cls(_single(losses), _single((-losses).exp()), _single(-losses - rest))

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, without those that are None; bools as uint8."""
        return {
            name: value.astype(np.uint8) if value.dtype == np.bool_ else value
            for name, value in vars(self).items()
            if value is not None
        }


def measure(model: PreTrainedModel, run: Run, queries: Corpus) -> Outputs:
    """Ask a model about the queries. Raises DataError where they have no labels, or ones the model does not know."""
    if text_task(run.task) is not None:
        return Outputs.of_sums(evaluate(model, run.tokenizer, run.task, queries, show=False).sums)
    predictions = predict(model, run.tokenizer, run.task, queries, show=False)
    if predictions.targets is None:
        raise DataError(f"{queries.name}: these queries have no labels. Name their column: Columns(label=...).")
    return Outputs.of_logits(predictions.logits, predictions.targets)


def to_bytes(outputs: Outputs, facts: Mapping[str, Any]) -> bytes:
    """One safetensors file; `facts` say what was retrained. Equal outputs and facts, equal bytes."""
    arrays = {name: np.ascontiguousarray(value) for name, value in outputs.arrays().items()}
    told = canonical_json({**facts, "digest": _digest(arrays)})
    return bytes(save(arrays, metadata={_KEY: told}))


def write_outputs(path: Path, content: bytes) -> None:
    """Write what `to_bytes` made, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def read_outputs(path: Path, facts: Mapping[str, Any]) -> Outputs:
    """Read a file and check that it is whole and of these facts. Raises StoreError."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {})[_KEY])
        arrays = load(path.read_bytes())
        if told.pop("digest") != _digest(arrays):
            raise StoreError(f"{path}: damaged. Delete it and fill the bank again: only what is missing is retrained.")
        if told != dict(facts):
            raise StoreError(f"{path}: of another bank, subset or seed. Delete it, or use a folder of its own.")
        correct = arrays.pop("correct", None)
        return Outputs(**arrays, correct=None if correct is None else correct.astype(np.bool_))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        fix = "Delete it and fill the bank again: only what is missing is retrained."
        raise StoreError(f"{path}: damaged ({type(error).__name__}). {fix}") from error


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return digest([part for name in sorted(arrays) for part in (name, arrays[name].tobytes())])


def _single(values: torch.Tensor) -> Float32[np.ndarray, " queries"]:
    return np.asarray(values.float().numpy())
