"""Token gradients drawn at random, stores made of them, and what they hold as plain dictionaries."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.gradients import TokenGradients
from headwater.store import Manifest, RowRange, Store, StoredCheckpoint, build_store

WIDTH = 5
SPECIAL = (0, 1)
VOCABULARY = 12

Dense = dict[tuple[int, int], np.ndarray]
"""(row, token) -> vector, float64."""


def random_gradients(
    seed: int, rows: int, *, first: int = 0, width: int = WIDTH, vocabulary: int = VOCABULARY, scale: float = 1.0
) -> TokenGradients:
    """Some tokens for each row, special ones in all, some vectors zero, norms spread over six powers of ten."""
    drawn = np.random.default_rng(seed)
    pairs = [
        (row + first, token)
        for row in range(rows)
        for token in range(vocabulary)
        if token in SPECIAL or drawn.random() < 0.4
    ]
    vectors = drawn.normal(size=(len(pairs), width)) * 10.0 ** drawn.uniform(-4, 2, size=(len(pairs), 1)) * scale
    vectors[drawn.random(len(pairs)) < 0.1] = 0
    return TokenGradients(
        torch.tensor([row for row, _ in pairs]),
        torch.tensor([token for _, token in pairs]),
        torch.from_numpy(vectors.astype(np.float32)),
    )


def as_dict(gradients: TokenGradients) -> Dense:
    keys = zip(gradients.rows.tolist(), gradients.tokens.tolist(), strict=True)
    return dict(zip(keys, gradients.gradients.double().numpy(), strict=True))


def plan(rows: int, *, checkpoints: int = 1, size: int = 4, **changes: object) -> Manifest:
    ranges = [RowRange(start, min(start + size, rows), f"rows {start}") for start in range(0, rows, size)]
    names = [StoredCheckpoint(f"checkpoint-{n}", f"{n:08x}weights", 10.0**-n, n) for n in range(1, checkpoints + 1)]
    values = {
        "method": "tracin-we", "model": "Bag", "tokenizer": "letters", "task": {"kind": "classification"},
        "dtype": "float32", "max_words": None, "special_tokens": SPECIAL, "ranges": tuple(ranges),
        "checkpoints": tuple(names), "built_with": {"torch": "2", "device": "abacus"},
    }  # fmt: skip
    return Manifest(**(values | changes))


def seed_of(checkpoint: StoredCheckpoint, rows: RowRange) -> int:
    return 1000 * int(checkpoint.fingerprint[:8], 16) + rows.start


def gradients_of(checkpoint: StoredCheckpoint, rows: RowRange) -> Iterator[TokenGradients]:
    """What a plan's segment holds, two rows at a time."""
    for start in range(rows.start, rows.stop, 2):
        yield random_gradients(seed_of(checkpoint, rows) + start, min(2, rows.stop - start), first=start)


def build(folder: Path, wanted: Manifest) -> Store:
    build_store(folder, wanted, gradients_of, others={"rows.txt": _write_rows}, kept=lambda _: None)
    return Store.open(folder)


def _write_rows(path: Path) -> None:
    path.write_text("one\ntwo\n")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Ten rows in three ranges at two checkpoints."""
    return build(tmp_path / "store", plan(10, checkpoints=2))


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """All bytes under a folder but those of the lock."""

    def read(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    return read
