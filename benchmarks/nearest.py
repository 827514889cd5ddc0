"""Is faiss faster than a product and a partial sort where a patch looks for candidates near a question?

    pip install faiss-cpu
    python benchmarks/nearest.py

Random representations, 384 numbers each; the 100 nearest by cosine, exactly; CPU seconds, in turns. numpy is what
`representation-cosine` does: a product of unit vectors, then a partial sort.
"""

from __future__ import annotations

import time

from report import heading, installed, spread, table, use_threads

use_threads(1)

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

WIDTH, NEAREST, REPEATS = 384, 100, 7
SIZES = ((10_000, 1), (200_000, 1), (200_000, 100))


def main() -> None:
    print(heading("Nearest rows: faiss, torch and numpy", installed(("faiss-cpu", "torch", "numpy"))))
    generator = np.random.default_rng(0)
    lines = []
    for rows, queries in SIZES:
        stored, asked = (unit(generator.normal(size=(count, WIDTH))) for count in (rows, queries))
        flat = faiss.IndexFlatIP(WIDTH)
        flat.add(stored)
        ways = {
            "faiss": lambda flat=flat, asked=asked: flat.search(asked, NEAREST)[1],
            "torch": lambda stored=stored, asked=asked: by_torch(stored, asked),
            "numpy": lambda stored=stored, asked=asked: by_numpy(stored, asked),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        found = {}
        for _ in range(REPEATS):
            for name, way in ways.items():
                began = time.process_time()
                found[name] = way()
                seconds[name].append(1000 * (time.process_time() - began))
        for name in ("torch", "numpy"):
            same = np.mean([len(set(a) & set(b)) for a, b in zip(found["faiss"], found[name], strict=True)]) / NEAREST
            assert same > 0.99, (name, same)
        lines.append([f"{rows:,}", str(queries), *[spread(seconds[name], 1) for name in ways]])
    print(table(["rows", "questions", "faiss ms", "torch ms", "numpy ms"], lines))


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def by_torch(stored: np.ndarray, asked: np.ndarray) -> np.ndarray:
    found = (torch.from_numpy(asked) @ torch.from_numpy(stored).T).topk(NEAREST, dim=1)
    return np.asarray(found.indices)


def by_numpy(stored: np.ndarray, asked: np.ndarray) -> np.ndarray:
    cosines = asked @ stored.T
    best = np.argpartition(-cosines, NEAREST, axis=1)[:, :NEAREST]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(cosines, best, 1), axis=1), 1)


if __name__ == "__main__":
    main()
