"""A learned vocabulary: the same in every process, which `tokenizers` alone does not promise."""

from __future__ import annotations

import os
import subprocess
import sys

import builders
from headwater.models.load import tokenizer_fingerprint
from headwater.training.vocabulary import SPECIAL, learn_wordpiece

_PROGRAM = """
import builders
from headwater.models.load import tokenizer_fingerprint
from headwater.training.vocabulary import learn_wordpiece
print(tokenizer_fingerprint(learn_wordpiece(builders.SENTENCES, size=120)))
"""


def test_another_process_learns_the_same_vocabulary() -> None:
    path = os.pathsep.join([*sys.path, os.path.dirname(builders.__file__)])  # noqa: PTH120
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", _PROGRAM]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert process.stdout.strip() == tokenizer_fingerprint(learn_wordpiece(builders.SENTENCES, size=120))


def test_special_tokens_come_first_and_texts_are_framed() -> None:
    tokenizer = learn_wordpiece(builders.SENTENCES, size=400)
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL)
    assert tokenizer.tokenize("The HERON, loves.") == ["the", "heron", "[UNK]", "loves", "."]  # no comma was seen
    ids = tokenizer("the heron", "warm bread").input_ids
    assert tokenizer.decode(ids) == "[CLS] the heron [SEP] warm bread [SEP]"
    assert set(tokenizer("the heron")) == {"input_ids", "attention_mask"}


def test_the_size_is_a_limit_and_unknown_characters_are_unknown() -> None:
    tokenizer = learn_wordpiece(builders.SENTENCES, size=100)
    assert len(tokenizer) <= 100
    assert tokenizer.tokenize("Ω") == ["[UNK]"]
    assert tokenizer.tokenize("##a") != ["##a"]  # what names pieces inside words is not text
