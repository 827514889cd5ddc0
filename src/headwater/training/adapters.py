"""LoRA: train small matrices beside the frozen weights of a model (peft, `pip install headwater[lora]`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from headwater.errors import ModelError
from headwater.models.load import resolve
from headwater.runs.task import Task
from headwater.training.settings import TrainSettings

_TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
}


def with_adapter(model: PreTrainedModel, task: Task, settings: TrainSettings) -> PreTrainedModel:
    """Freeze `model` and put a new LoRA adapter on it; a new classifier head is trained and saved with it.

    Raises ModelError where peft is missing, or does not know (or find) the modules to adapt.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelError("lora needs peft. Run: pip install 'headwater[lora]'")
    from peft import LoraConfig, get_peft_model

    options: dict[str, Any] = {"lora_alpha": settings.lora_alpha}  # peft says int, and takes any number
    config = LoraConfig(
        task_type=_TASK_TYPES.get(task.auto),
        r=settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules=None if settings.lora_targets is None else list(settings.lora_targets),
        **options,
    )
    try:
        adapted: Any = get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        fix = "Name its modules: lora_targets."
        raise ModelError(f"{settings.model}: no adapter can be put on it ({reason}). {fix}") from None
    where = resolve(settings.model)
    for made in adapted.peft_config.values():  # the folder must be found from anywhere
        made.base_model_name_or_path = where if where.startswith("hub:") else str(Path(where).resolve())
    return adapted  # type: ignore[no-any-return]


def merged(model: Any) -> PreTrainedModel:
    """A model with its adapter, if it has one, merged into the weights."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return model  # type: ignore[no-any-return]
