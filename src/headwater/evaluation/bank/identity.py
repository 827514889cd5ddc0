"""What a bank is of: if any of it changed, its numbers would, so they must not be mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from headwater.evaluation.bank.protocol import Protocol
from headwater.files import canonical_json, digest
from headwater.models.load import model_fingerprint, tokenizer_fingerprint
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run
from headwater.store import built_with
from headwater.training.trained import rates_of

_NAMES = {
    "corpus": "corpus",
    "rows": "corpus",
    "task": "task",
    "recipe": "recipe",
    "initial": "weights that training begins from",
    "trained": "parameters that are trained",
    "tokenizer": "tokenizer",
    "queries": "queries",
    "asked": "number of queries",
    "protocol": "protocol",
    "first_weights": "first weights",
    "arithmetic": "arithmetic",
    "threads": "threads a process",
    "built_with": "torch, transformers or device, whose last bits may differ",
}


def run_facts(run: Run) -> dict[str, Any]:
    """What of a run its retrainings depend on. Raises RunError where it cannot be trained again."""
    recipe, log = run.need_recipe(), rates_of(run)
    return {
        "corpus": run.corpus.fingerprint,
        "rows": len(run.corpus),
        "task": run.task.to_json(),
        "recipe": digest([canonical_json(recipe.arguments), str(recipe.seed)]),
        "initial": model_fingerprint(recipe.initial),
        "trained": digest([canonical_json([] if log is None else log.parameters)]),
        "tokenizer": tokenizer_fingerprint(run.tokenizer),
    }


def query_facts(queries: Corpus) -> dict[str, Any]:
    """Which texts and labels are asked about."""
    return {"asked": len(queries), "queries": queries.fingerprint}


def on_cpu(run: Run) -> bool:
    """Whether this run is retrained on the CPU on this machine."""
    return bool(run.need_recipe().arguments.get("use_cpu")) or not torch.cuda.is_available()


def machine_facts(run: Run) -> dict[str, Any]:
    """What the last bits may depend on."""
    made = built_with("cpu" if on_cpu(run) else "cuda")
    return {"built_with": {**made, "transformers": transformers.__version__}}


def identity(
    run: Run, queries: Corpus, protocol: Protocol, *, first_weights: str, arithmetic: str, threads: int
) -> dict[str, Any]:
    """All of it."""
    how = {"first_weights": first_weights, "arithmetic": arithmetic, "threads": threads}
    return {**run_facts(run), **query_facts(queries), "protocol": protocol.to_json(), **how, **machine_facts(run)}


def difference(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first of `asked` that the saved identity has otherwise, in words; empty where all agree."""
    for name in asked:
        value = json.loads(canonical_json(asked[name]))  # as a file would give it back
        if saved.get(name) != value:
            return f"{_NAMES[name]} {_shown(saved.get(name))}, not {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        known = {name: part for name, part in value.items() if part is not None}
        return ", ".join(f"{name} {part}" for name, part in sorted(known.items(), key=lambda item: item[0] != "name"))
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text[:8] if len(text) == 32 else text  # a digest
