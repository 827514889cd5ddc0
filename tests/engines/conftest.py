"""A run of nine ranges at two checkpoints, and its index as this process builds it."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.models.textcnn import TextCNN, TextCNNConfig

RANGE_ROWS = 80
ROWS = 720


def files_of(folder: Path) -> dict[str, bytes]:
    """All of an index but the lock, and where its run lies, which is a path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "source.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.attribution.build.RANGE_ROWS", RANGE_ROWS)


@pytest.fixture(scope="session")
def engine_run(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Run:
    names = {"label2id": builders.LABEL2ID, "id2label": {v: k for k, v in builders.LABEL2ID.items()}}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = TextCNNConfig(vocab_size=len(tokenizer), hidden_size=8, channels=4, max_length=32, **names)
        models.append(TextCNN(config))
    long = {"text": " ".join(["the noisy mill loves warm bread"] * 9), "label": "good"}
    rows = [*(builders.rows(240) * 3)[:-1], long]
    return make_run(tmp_path_factory.mktemp("engines"), models, tokenizer, rows)


@pytest.fixture
def whole(engine_run: hw.Run, tmp_path: Path) -> dict[str, bytes]:
    """The bytes of a build in this process."""
    with pytest.warns(hw.HeadwaterWarning, match="were cut"):
        hw.Index.build(engine_run, tmp_path / "whole")
    return files_of(tmp_path / "whole")
