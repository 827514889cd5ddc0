"""What stands in a bank's folder beside the retrainings: bank.json, the masks of the subsets, the times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headwater.errors import StoreError
from headwater.evaluation.bank.edits import NAME as EDITS
from headwater.evaluation.bank.edits import edit_digest, read_edits, write_edits
from headwater.evaluation.bank.protocol import Protocol
from headwater.evaluation.bank.workers import Item
from headwater.evaluation.metrics.word_deletion import Edit
from headwater.files import atomic_file, canonical_json, digest, read_json, write_json

FORMAT = 1
NAME = "bank.json"
QUERIES = "queries.parquet"
RETRAINS = "retrains"
_NEEDED = ("protocol", "rows", "first_weights", "arithmetic", "threads", "built_with")  # of the identity
_SUBSETS = "subsets.safetensors"
_TIMES = "times.jsonl"


@dataclass(frozen=True)
class Manifest:
    """bank.json and subsets.safetensors; of a bank of edited texts, edits.json."""

    identity: Mapping[str, Any]
    """What the bank is of (`identity.identity`); it never changes."""
    seeds: tuple[int, ...]
    masks: Bool[np.ndarray, "subsets rows"]
    """True for the rows trained on."""
    edits: tuple[Edit, ...] = ()
    """Under `cut_words()`: the words cut out, one edit a subset."""

    @property
    def protocol(self) -> Protocol:
        """How the subsets are made."""
        return Protocol.from_json(self.identity["protocol"])

    def facts(self, item: Item) -> dict[str, Any]:
        """What the file of one retraining says of itself."""
        number, seed = item
        subset = np.packbits(self.masks[number]).tobytes()
        words = {"words": edit_digest([self.edits[number]])} if self.protocol.name == "words" else {}
        return {"bank": digest([canonical_json(self.identity)]), "subset": digest([subset]), "seed": seed, **words}

    def write(self, folder: Path) -> None:
        """Write all files; bank.json last, so that it never counts subsets that are not there."""
        packed = {"masks": np.packbits(self.masks, axis=1)}
        with atomic_file(folder / _SUBSETS) as temporary:
            temporary.write_bytes(save(packed))
        words = self.protocol.name == "words"
        if words:
            write_edits(folder, self.edits)
        told = {
            "format": FORMAT,
            "identity": dict(self.identity),
            "protocol": str(self.protocol),
            "seeds": list(self.seeds),
            "subsets": len(self.masks),
            "masks": _digest(self.masks),
            **({"edits": edit_digest(self.edits)} if words else {}),
        }
        write_json(folder / NAME, told)


def has_bank(folder: Path) -> bool:
    """Whether a bank was made here."""
    return (folder / NAME).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read what `Manifest.write` wrote. Raises StoreError where it is missing, damaged or newer."""
    if not has_bank(folder):
        raise StoreError(f"{folder}: there is no bank of retrainings here. Make one with RetrainBank.create.")
    told = read_json(folder / NAME)
    try:
        if told["format"] > FORMAT:
            raise StoreError(f"{folder}: a bank of format {told['format']}, newer than this Headwater knows. Upgrade.")
        identity, count = told["identity"], int(told["subsets"])
        lacking = [name for name in _NEEDED if name not in identity]
        if lacking:
            raise KeyError(lacking[0])
        packed = load((folder / _SUBSETS).read_bytes())["masks"][:count]
        masks = np.unpackbits(packed, axis=1, count=int(identity["rows"])).astype(np.bool_)
        if len(masks) != count or _digest(masks) != told["masks"]:
            raise StoreError(f"{folder / _SUBSETS}: damaged. Put the file back, or make another bank.")
        edits = read_edits(folder, count) if "edits" in told else ()
        if "edits" in told and (len(edits) != count or edit_digest(edits) != told["edits"]):
            raise StoreError(f"{folder / EDITS}: damaged. Put the file back, or make another bank.")
        return Manifest(identity, tuple(int(seed) for seed in told["seeds"]), masks, edits)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{folder}: this bank is damaged ({type(error).__name__}: {error}). Make another.") from error


def retrain_path(folder: Path, item: Item) -> Path:
    """Where the file of one retraining stands."""
    return folder / RETRAINS / f"{item[0]:06d}-{item[1]}.safetensors"


def note_time(folder: Path, item: Item, seconds: float) -> None:
    """Write down what a retraining took. A line that a crash cut short is left out when they are read."""
    line = canonical_json({"subset": item[0], "seed": item[1], "seconds": round(seconds, 4)}) + "\n"
    with (folder / _TIMES).open("a", encoding="utf-8") as file:
        file.write(line)


def read_times(folder: Path) -> dict[Item, float]:
    """Seconds of each retraining that was written down; of one that was done again, the last."""
    path = folder / _TIMES
    return dict(_times(path.read_text(encoding="utf-8", errors="replace").splitlines())) if path.is_file() else {}


def _times(lines: Iterable[str]) -> Iterable[tuple[Item, float]]:
    for line in lines:
        try:
            told = json.loads(line)
            yield (int(told["subset"]), int(told["seed"])), float(told["seconds"])
        except (ValueError, KeyError, TypeError):
            continue


def _digest(masks: Bool[np.ndarray, "subsets rows"]) -> str:
    return digest([np.packbits(masks, axis=1).tobytes()])
