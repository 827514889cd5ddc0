"""The rows that layers.py asks of every library: AG News texts as token ids, for MiniLM and for SmolLM2-135M.

Written once as files that any library can read without Headwater:

    model/         MiniLM with a random head of 4 labels (SmolLM2 stays where it is: setting.json names its folder)
    arrays.npz     input_ids, attention_mask [N, T], labels [N]; the longest rows first
    setting.json   the numbers; the names of the linear layers, of the blocks and of the whole model; written last
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOKENS = 64
BATCH = {"minilm": 32, "smollm2": 8}
KIND = {"minilm": "classification", "smollm2": "causal-lm"}
VERSION = 2


def make_rows(folder: Path, model: str, count: int) -> Path:
    """Write the rows into `folder` unless the same are there already; returns the folder."""
    marker = folder / "setting.json"
    asked = {"model": model, "rows": count, "tokens": TOKENS, "batch": BATCH[model], "version": VERSION}
    if marker.exists() and asked.items() <= json.loads(marker.read_text()).items():
        return folder
    import numpy as np

    from workloads import AG_NEWS, ag_news

    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    source, network, tokenizer = _minilm(folder, AG_NEWS) if model == "minilm" else _smollm2()
    examples = ag_news(count)
    encoded = tokenizer([row["text"] for row in examples], truncation=True, max_length=TOKENS)["input_ids"]
    order = sorted(range(count), key=lambda row: (-len(encoded[row]), row))
    ids, mask = (np.zeros((count, TOKENS), dtype=np.int64) for _ in range(2))
    for place, row in enumerate(order):
        ids[place, : len(encoded[row])] = encoded[row]
        mask[place, : len(encoded[row])] = 1
    labels = np.array([AG_NEWS.index(examples[row]["label"]) for row in order])
    np.savez(folder / "arrays.npz", input_ids=ids, attention_mask=mask, labels=labels)
    more = {"kind": KIND[model], "folder": str(source), **_linear_layers(network)}
    marker.write_text(json.dumps(asked | more, indent=1))
    return folder


def _minilm(folder: Path, labels: list[str]) -> tuple[Path, Any, Any]:
    import torch

    from headwater.models.load import load_classifier, load_tokenizer, resolve

    torch.manual_seed(0)
    label2id = {label: number for number, label in enumerate(labels)}
    network = load_classifier(resolve("minilm"), num_labels=len(labels), label2id=label2id)
    network.save_pretrained(folder / "model")
    return folder / "model", network, load_tokenizer(resolve("minilm"))


def _smollm2() -> tuple[Path, Any, Any]:
    from headwater.models.load import load_model, load_tokenizer
    from headwater.models.smollm2 import smollm2_folder

    folder = smollm2_folder()
    return folder, load_model(folder, "AutoModelForCausalLM"), load_tokenizer(folder)


def _linear_layers(network: Any) -> dict[str, list[str]]:
    """All linear layers; and those of the blocks, which every library can capture (pooler and heads are left out)."""
    from torch import nn

    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return {"all": names, "blocks": [name for name in names if ".layer." in name or ".layers." in name]}
