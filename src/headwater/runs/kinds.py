"""The kinds of task there are: from what a file says to the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.errors import RunError
from headwater.runs.causal_lm import CausalLM
from headwater.runs.classification import Classification
from headwater.runs.custom import CustomLoss
from headwater.runs.masked_lm import MaskedLM
from headwater.runs.seq2seq import Seq2Seq
from headwater.runs.task import Task

_KINDS: dict[str, Any] = {
    **dict.fromkeys(Classification.KINDS, Classification),
    **{made.kind: made for made in (CausalLM, Seq2Seq, MaskedLM)},
}


def task_from_json(saved: Mapping[str, Any]) -> Task:
    """The task that `Task.to_json` described. Raises RunError for a kind this version does not know."""
    if "loss" in saved:
        base = task_from_json({key: value for key, value in saved.items() if key != "loss"})
        return CustomLoss.without_function(base, str(saved["loss"]))
    if saved.get("kind") not in _KINDS:
        kinds = ", ".join(_KINDS)
        raise RunError(f"this run's task is {saved.get('kind')!r}; this version of Headwater knows {kinds}.")
    task: Task = _KINDS[saved["kind"]].from_json(saved)
    return task
