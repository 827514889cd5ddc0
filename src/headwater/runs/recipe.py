"""The recipe: all that is needed to train again as the run was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from headwater.errors import RunError
from headwater.files import read_json, write_json

_FORMAT = 1
_ELSEWHERE = ("hub_", "push_to_hub", "ray_", "deepspeed", "fsdp", "local_rank", "ddp_")
"""Arguments about where a training ran or was sent to, not about how it went."""


@dataclass(frozen=True)
class Recipe:
    """`arguments` are TrainingArguments as JSON, without secrets and without paths of the machine they came from."""

    arguments: dict[str, Any]
    initial: Path
    """Folder with the weights, config and tokenizer that the training began from."""
    max_length: int | None
    seed: int

    def write(self, path: Path) -> None:
        """Write recipe.json; `initial` stands beside it."""
        content = {
            "format": _FORMAT,
            "arguments": self.arguments,
            "initial": self.initial.name,
            "max_length": self.max_length,
            "seed": self.seed,
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read what `write` wrote. Raises RunError."""
        content = read_json(path)
        try:
            if content["format"] > _FORMAT:
                raise RunError(f"{path}: format {content['format']}, newer than this Headwater knows. Upgrade it.")
            initial = path.parent / content["initial"]
            recipe = cls(content["arguments"], initial, content["max_length"], content["seed"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{path}: damaged ({type(error).__name__}: {error}).") from error
        if not initial.is_dir():
            raise RunError(f"{initial}: no such folder; the run's first weights are gone. Put them back.")
        return recipe


def portable_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """The arguments as JSON: no tokens, no absolute paths, nothing about the machine or the hub."""
    kept = {}
    everything: dict[str, Any] = arguments.to_dict()  # type: ignore[no-untyped-call]
    for name, value in everything.items():
        secret = name.endswith("_token") or name.startswith(_ELSEWHERE)
        if secret or name in ("output_dir", "logging_dir", "run_name") or _is_absolute(value):
            continue
        kept[name] = json.loads(json.dumps(value, default=str))
    return kept


def _is_absolute(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()
