"""Which rows teach a model a habit: their push, through the word itself, toward the habit's label.

Asked are the held-out rows that hold the word, each explained by the label that the habit says, whatever its own is;
the push of a row is TracIn-WE's score with them, of the word alone (`pushed_through`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.attribution.index import Index
from headwater.attribution.word_tables import pushed_through
from headwater.audit.afford import Left
from headwater.audit.lexical_bias import WORD
from headwater.evaluation.bank.queries import with_labels
from headwater.runs.corpus import Corpus

HABITS = 5  # that are followed to their rows
ROWS = 5  # that are told of each
_QUERIES = 64  # held-out rows of each
_SURE = 0.05


def teachers(
    index: Index,
    held_out: Corpus,
    habits: Sequence[Mapping[str, Any]],
    *,
    left: Left | None = None,
    show: bool | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Follow the strongest shown habits of single words; of each, the rows that push most, and their share of all push
    toward the label. A word that no row pushed anything through is left out, and those for which the seconds that are
    `left` do not suffice: how many these are is returned as well."""
    shown = [each for each in habits if each["p"] < _SURE and each["habit"] > 0 and " " not in each["word"]]
    shown = sorted(shown, key=lambda each: -each["habit"])[:HABITS]
    found: list[dict[str, Any]] = []
    for followed, habit in enumerate(shown):
        if left is not None and left() <= 0:
            return found, len(shown) - followed
        holding = [
            row.row for row in held_out if habit["word"] in _words(row.text if row.text_pair is None else row.text_pair)
        ]
        queries = held_out.take(holding[:_QUERIES])
        asked = with_labels(queries, [habit["label"]] * len(queries))
        rows, pushes = pushed_through(index, asked, habit["word"], show=show)
        if not len(rows):
            continue
        whole = float(pushes[pushes > 0].sum())
        order = [at for at in np.argsort(-pushes, kind="stable")[:ROWS] if pushes[at] > 0]
        found.append(
            {
                "word": habit["word"],
                "label": habit["label"],
                "habit": habit["habit"],
                "queries": len(queries),
                "rows_that_push": int((pushes > 0).sum()),
                "rows_that_push_away": int((pushes < 0).sum()),
                "rows": [
                    {
                        "row": int(rows[at]),
                        "label": str(index.corpus[int(rows[at])].label),
                        "push": float(pushes[at]),
                        "share": float(pushes[at]) / whole,
                    }
                    for at in order
                ],
            }
        )
    return found, 0


def _words(text: str) -> set[str]:
    return set(re.findall(WORD, text.lower()))
