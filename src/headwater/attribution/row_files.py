"""Files of arrays a row (layer gradients, representations): built once, and again for what a corpus has gained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from headwater.attribution.passes import Passes
from headwater.store.carry import build_or_carry
from headwater.store.rows import RowManifest, RowsOf


def build_row_files(
    passes: Passes,
    folder: Path,
    plan: RowManifest,
    rows_of: Callable[[Passes], RowsOf],
    *,
    follows: bool,
    kept: Callable[[int], object],
) -> list[Passes]:
    """Write what is missing of `plan` into `folder`; return the passes that were made, for what they have to say.

    Of an index that `follows` a corpus of its own only the rows that are new to these files take a pass.
    """
    made: list[Passes] = []

    def of_new(rows: Int64[np.ndarray, "n"]) -> RowsOf:
        made.append(passes.narrowed(rows))
        return rows_of(made[-1])

    build_or_carry(folder, plan, passes.run.corpus.hashes, of_new, follows=follows, kept=kept)
    return made
