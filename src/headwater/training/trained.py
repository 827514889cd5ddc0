"""Which parameters a training moves, and leaving the others where they are.

A run's own: Recorder writes down the parameters of the optimizer, which holds none that were frozen.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from headwater.errors import RunError, UsageError
from headwater.runs.rates import RateLog
from headwater.runs.record import record_folder
from headwater.runs.run import Run

EMBEDDINGS = "word-embeddings"
"""The name, in every model, of the matrix that the words are looked up in."""


def rates_of(run: Run) -> RateLog | None:
    """What Recorder wrote down of the run's optimizer; None where nobody did."""
    path = record_folder(run.folder) / "rates.json"
    return RateLog.read(path) if path.is_file() else None


def only_trained(model: PreTrainedModel, run: Run) -> list[nn.Parameter]:
    """Freeze what the run's training left alone, and return what it moved.

    Where nobody recorded which, that is what the model itself leaves open. Raises RunError where the model is another.
    """
    named = dict(model.named_parameters())
    log = rates_of(run)
    if log is not None:
        moved = {name for group in log.parameters for name in group}
        if not moved <= named.keys():
            raise RunError(f"{run.folder}: the training moved {min(moved - named.keys())}, which the model lacks.")
        for name, parameter in named.items():
            parameter.requires_grad_(name in moved)
    return [parameter for parameter in named.values() if parameter.requires_grad]


def freeze(model: PreTrainedModel, patterns: Sequence[str]) -> None:
    """Freeze the parameters that `patterns` name: 'word-embeddings', or globs on parameter names (`bert.encoder.*`).

    Raises UsageError for a pattern that matches nothing, and where nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        found = _matched(model, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"freeze {pattern!r}: no parameter is called so.{hint} Name {EMBEDDINGS!r}, or a glob on the names of "
                f"parameters, such as {names[0]}."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"freeze {', '.join(patterns)}: nothing is left to train.")


def _matched(model: PreTrainedModel, pattern: str) -> list[nn.Parameter]:
    if pattern == EMBEDDINGS:
        matrix = model.get_input_embeddings().weight
        return [parameter for parameter in model.parameters() if parameter is matrix]
    return [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
