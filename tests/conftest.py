"""Settings that must stand before torch is imported, and the small things that many tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HEADWATER_QUIET", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # workers of pytest-xdist are given a small terminal; what we print goes into pipes

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

import builders
import chromium

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium."""
    yield from chromium.opened()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return builders.wordpiece_tokenizer()
