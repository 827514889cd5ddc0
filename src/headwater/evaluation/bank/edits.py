"""The words that each retraining of a word bank is trained without, on disk: [[row, part, start, end], ...] each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from headwater.attribution.words import Word
from headwater.errors import UsageError
from headwater.evaluation.metrics.word_deletion import Edit, RowWord
from headwater.files import canonical_json, digest, read_json, write_json

NAME = "edits.json"


def write_edits(folder: Path, edits: Sequence[Edit]) -> None:
    """Write all of them, whole or not at all."""
    write_json(folder / NAME, [_packed(edit) for edit in edits])


def read_edits(folder: Path, count: int) -> tuple[Edit, ...]:
    """Read the first `count`. Raises what a damaged file raises: HeadwaterError, TypeError, ValueError."""
    told = read_json(folder / NAME)[:count]
    return tuple(
        tuple(RowWord(int(row), Word(int(start), int(end), int(part))) for row, part, start, end in edit)
        for edit in told
    )


def edit_digest(edits: Sequence[Edit]) -> str:
    """Of these, in this order."""
    return digest([canonical_json([_packed(edit) for edit in edits])])


def checked_edits(edits: Collection[Edit], rows: int) -> list[Edit]:
    """Each with its words ascending. Raises UsageError for a row that is not there."""
    made = [tuple(sorted(edit)) for edit in edits]
    for edit in made:
        wrong = [item.row for item in edit if not 0 <= item.row < rows]
        if wrong:
            raise UsageError(f"row {wrong[0]:,} (counted from 0) is not among the run's {rows:,} rows.")
    return made


def _packed(edit: Edit) -> list[list[int]]:
    return [[item.row, item.word.part, item.word.start, item.word.end] for item in edit]
