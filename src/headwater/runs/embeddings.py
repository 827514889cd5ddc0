"""Did the word embeddings move in training? Scores of their layer are TracIn's first-order story only if they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.files import read_json
from headwater.models.load import CLASSIFIER, load_config, load_model, tensor_names

STILL = (
    "The word embeddings did not move in this training (frozen, or a LoRA adapter): scores of the word-embedding "
    "layer are then similarities of gradients, not TracIn's first-order account of what training did."
)


_ADAPTED = (
    "This training changed the weights of a LoRA adapter ({modules}), not the word embeddings: scores of their "
    "layer speak of the base model's frozen embeddings. They are similarities of gradients; the word embeddings "
    "did not move."
)

_NOT_WORDS = ("norm", "Norm", "position", "token_type")


def still_note(folder: Path) -> str:
    """What to say of a run whose word embeddings did not move, and which parameters did."""
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return STILL
    modules = read_json(settings).get("target_modules")
    named = modules if isinstance(modules, str) else ", ".join(sorted(modules or ["LoRA"]))
    return _ADAPTED.format(modules=named)


def embeddings_moved(folders: Sequence[Path], auto: str = CLASSIFIER) -> bool:
    """Whether the input embedding matrices of these model folders differ in any bit. Raises ModelError."""
    if any((folder / "adapter_config.json").is_file() for folder in folders):
        return _adapters_differ([f for f in folders if (f / "adapter_config.json").is_file()])
    names = _embedding_names(folders[-1], auto)
    first = _matrix(folders[0], names, auto)
    return any(not torch.equal(first, _matrix(folder, names, auto)) for folder in folders[1:])


def _embedding_names(folder: Path, auto: str) -> list[str]:
    """The names under which the input embedding matrix may stand in a weight file; tied models have several."""
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(load_config(folder))
    matrix = model.get_input_embeddings().weight
    return [name for name, value in model.named_parameters(remove_duplicate=False) if value is matrix]


def _matrix(folder: Path, names: Sequence[str], auto: str) -> Tensor:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in set(names) & set(file.keys()):
                    matrix: Tensor = file.get_tensor(name)
                    return matrix
        except SafetensorError:
            break  # load_model says what is wrong with the file
    lookup: Any = load_model(folder, auto).get_input_embeddings()
    weight: Tensor = lookup.weight.detach()
    return weight


def _adapters_differ(folders: Sequence[Path]) -> bool:
    """An adapter moves the word embeddings only if its files hold weights for them."""
    kept = [_embedding_tensors(folder) for folder in folders]
    return any(
        kept[0].keys() != other.keys() or any(not torch.equal(other[name], kept[0][name]) for name in other)
        for other in kept[1:]
    )


def _embedding_tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        names = [name for name in tensor_names(path) if "embed" in name and not any(n in name for n in _NOT_WORDS)]
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in names}
    return found
