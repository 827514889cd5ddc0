"""The setting in which all libraries are compared: a tiny random BERT classifier and Zipf-distributed token ids.

Made from one seed, written once as files that any library can read without Headwater:

    checkpoint-1/, checkpoint-2/   Hugging Face folders (config, safetensors, tokenizer)
    arrays.npz                     input_ids, attention_mask [N + Q, T], labels [N + Q]; the queries come last
    corpus.jsonl, queries.jsonl    the same rows as texts: "w17 w5 ..." encodes to exactly those ids
    setting.json                   the numbers below; written last, so its presence means "complete"

    python benchmarks/setting.py FOLDER [--rows 1000] [--queries 100]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]  # token ids 0 to 3
CLS, SEP = 2, 3
LABELS = ["alpha", "beta", "gamma", "delta"]


@dataclass(frozen=True)
class Setting:
    rows: int = 1_000  # N, training examples
    queries: int = 100  # the largest Q; smaller ones take the first Q
    vocabulary: int = 30_522
    tokens: int = 64  # T, places a row is padded to
    shortest: int = 16  # real tokens of the shortest row, [CLS] and [SEP] included
    layers: int = 2
    width: int = 128
    zipf: float = 1.0  # exponent of the token distribution (1: Zipf's law)
    weights: tuple[float, ...] = (1e-2, 5e-3)  # one a checkpoint
    seed: int = 0


def make(folder: Path, setting: Setting) -> Path:
    """Write the setting into `folder` unless the same setting is there already; returns the folder."""
    marker = folder / "setting.json"
    text = json.dumps(asdict(setting), indent=1)
    if marker.exists() and marker.read_text() == text:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    ids, mask, labels = _arrays(setting)
    import numpy as np

    np.savez(folder / "arrays.npz", input_ids=ids, attention_mask=mask, labels=labels)
    _write_texts(folder / "corpus.jsonl", ids[: setting.rows], mask, labels)
    _write_texts(folder / "queries.jsonl", ids[setting.rows :], mask[setting.rows :], labels[setting.rows :])
    for number in range(len(setting.weights)):
        _write_checkpoint(folder / f"checkpoint-{number + 1}", setting, setting.seed + number)
    _check_tokenizer(folder, ids, mask)
    marker.write_text(text)
    return folder


def _arrays(setting: Setting) -> tuple[Any, Any, Any]:
    import numpy as np

    random = np.random.default_rng(setting.seed)
    count, words = setting.rows + setting.queries, setting.vocabulary - len(SPECIAL)
    chance = 1.0 / np.arange(1, words + 1) ** setting.zipf
    chance /= chance.sum()
    ids = np.zeros((count, setting.tokens), dtype=np.int64)
    mask = np.zeros_like(ids)
    lengths = random.integers(setting.shortest, setting.tokens + 1, size=count)
    for row, length in enumerate(lengths):
        ids[row, 0], ids[row, length - 1] = CLS, SEP
        ids[row, 1 : length - 1] = len(SPECIAL) + random.choice(words, size=length - 2, p=chance)
        mask[row, :length] = 1
    return ids, mask, random.integers(0, len(LABELS), size=count)


def _write_texts(path: Path, ids: Any, mask: Any, labels: Any) -> None:
    lines = []
    for row, real, label in zip(ids, mask, labels, strict=False):
        words = " ".join(f"w{token}" for token in row[: real.sum()][1:-1])
        lines.append(json.dumps({"text": words, "label": LABELS[label]}))
    path.write_text("\n".join(lines) + "\n")


def _write_checkpoint(folder: Path, setting: Setting, seed: int) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=max(setting.width // 64, 1),
        intermediate_size=4 * setting.width,
        max_position_embeddings=setting.tokens,
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    _tokenizer(setting).save_pretrained(folder)


def _tokenizer(setting: Setting) -> Any:
    """One word, one token: "w17" is token 17. [CLS] and [SEP] are added as BERT does."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    names = SPECIAL + [f"w{token}" for token in range(len(SPECIAL), setting.vocabulary)]
    tokenizer = Tokenizer(WordLevel({name: token for token, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=setting.tokens,
    )


def _check_tokenizer(folder: Path, ids: Any, mask: Any) -> None:
    """The texts must give the peers' ids exactly, else the comparison is void."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint-1")
    texts = [
        json.loads(line)["text"]
        for name in ("corpus.jsonl", "queries.jsonl")
        for line in (folder / name).read_text().splitlines()
    ]
    for row, (encoded, real) in enumerate(zip(tokenizer(texts)["input_ids"], mask, strict=True)):
        if encoded != ids[row, : real.sum()].tolist():
            raise SystemExit(f"setting: text of row {row} does not encode to its ids")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=Setting.rows)
    parser.add_argument("--queries", type=int, default=Setting.queries)
    options = parser.parse_args()
    print(make(options.folder, Setting(rows=options.rows, queries=options.queries)))


if __name__ == "__main__":
    main()
