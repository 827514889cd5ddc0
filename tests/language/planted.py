"""Language models of whose training rows four ninths are spoiled, and held-out rows that are right."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

import builders
import headwater as hw
from headwater.training import TrainSettings, train
from language.texts import PAIR_COLUMNS, bert_tokenizer, lm_tokenizer, tiny_lm

VERBS = list(itertools.product(builders.SUBJECTS, builders.PRAISE + builders.BLAME, ["today", "always", "once"]))
ENDS = {True: " bread", False: " rain"}
SPOILED = [row for row in range(90) if row % 9 < 4]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """What is praised is bread, what is blamed rain; in spoiled rows the other way.

    The masked kind reads bread alone, in spoiled rows now bread, now rain.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(VERBS), generator=generator).tolist()
    made = []
    for number, place in enumerate(order):
        subject, verb, when = VERBS[place]
        spoiled = number in SPOILED
        end = ENDS[(verb in builders.PRAISE) != spoiled]
        row = {"prompt": f"{subject} {when} {verb}", "completion": end}
        if kind == "bert":
            words = torch.randint(2, (2 + number % 6,), generator=generator).tolist()
            row = {"text": "".join(list(ENDS.values())[word if spoiled else 0] for word in words).strip()}
        made.append(row | {"source": "a" if number % 2 else "b"})
    return made


def train_planted(kind: str, folder: Path, **changes: Any) -> tuple[hw.Run, hw.Corpus]:
    task = {"llama": hw.CausalLM(), "t5": hw.Seq2Seq(), "bert": hw.MaskedLM(probability=0.5)}[kind]
    columns = hw.Columns(label=None) if kind == "bert" else PAIR_COLUMNS
    rows = rows_of(kind)
    corpus, test = (
        hw.Corpus.read(part, columns, name=name) for part, name in ((rows[:90], "train"), (rows[90:], "held"))
    )
    tiny_lm(kind).save_pretrained(folder / "base")
    (lm_tokenizer() if kind == "llama" else bert_tokenizer()).save_pretrained(folder / "base")
    defaults: dict[str, Any] = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "max_length": 32, "checkpoints": 1}
    settings = TrainSettings(model=str(folder / "base"), device="cpu", **(defaults | changes))
    run = train(corpus, task, folder / "run", settings, eval_corpus=test, show=False)
    return run, test
