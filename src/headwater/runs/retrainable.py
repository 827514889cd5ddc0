"""Do the arguments tell how a training went? What was passed to Trainer by hand is not in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments, get_scheduler

_WITHOUT_MODEL = ("galore", "apollo", "lomo", "stable_adamw")  # optimizers whose class is not told without a model


def unlike_arguments(arguments: TrainingArguments, optimizer: Any) -> str:
    """Why retraining from the arguments would use another optimizer; empty if it would not."""
    inner: Any = getattr(optimizer, "optimizer", optimizer)
    if any(name in str(arguments.optim) for name in _WITHOUT_MODEL):
        return ""
    expected, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if not isinstance(expected, type):
        return ""
    made = type(inner)
    if made is not expected:
        return f"its optimizer was made by hand ({made.__name__}; the arguments say {expected.__name__})."
    for name in ("betas", "eps"):
        if name in options and inner.defaults.get(name) != options[name]:
            return f"its optimizer was made by hand ({name} {inner.defaults.get(name)}, not {options[name]})."
    decays = {group["weight_decay"] for group in inner.param_groups if "weight_decay" in group}
    if not decays <= {arguments.weight_decay, 0.0}:
        return f"its optimizer was made by hand (weight decay {sorted(decays)}, not {arguments.weight_decay})."
    return ""


def unlike_schedule(arguments: TrainingArguments, total: int, rates: Sequence[Sequence[float]]) -> str:
    """Why retraining from the arguments would take other learning rates; empty if it would not.

    `rates` are those of each group, from the first step; steps of rate 0 (skipped) are not compared.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=arguments.learning_rate)
    options: Any = arguments.lr_scheduler_kwargs or {}
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=options,
    )
    if not isinstance(schedule, LambdaLR):
        return ""  # it follows the metrics, as the arguments say
    for group in rates:
        expected = [arguments.learning_rate * schedule.lr_lambdas[0](step) for step in range(len(group))]
        if not all(rate == 0.0 or np.isclose(rate, e, rtol=1e-6) for rate, e in zip(group, expected, strict=True)):
            return "its learning rates are not those that its arguments name: optimizer or schedule were made by hand."
    return ""
