"""Test rows that no model of a run can be asked about: found before any training, left out of a proof, and told.

A prompt that fills `max_length` leaves nothing of its completion; a conversation may end without an answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from headwater.errors import DataError
from headwater.runs.corpus import Corpus
from headwater.runs.run import Run


def unaskable(run: Run, test: Corpus) -> Mapping[int, str]:
    """Rows of `test`, counted from 0, that the task cannot encode, each with the reason."""
    examples = list(test)
    try:
        run.task.encode(run.tokenizer, examples)
    except DataError:
        pass
    else:
        return {}
    found = {}
    for example in examples:
        try:
            run.task.encode(run.tokenizer, [example])
        except DataError as error:
            found[example.row] = str(error).removeprefix(f"the corpus, row {example.row + 1:,}: ")
    return found


def some_askable(run: Run, test: Corpus) -> Mapping[int, str]:
    """The same. Raises DataError where no row is left."""
    found = unaskable(run, test)
    if len(found) == len(test):
        raise DataError(f"{test.name}: none of its {len(test):,} rows can be asked; {_first(found)}")
    return found


def told_unasked(test: Corpus, unasked: Mapping[int, str]) -> str:
    """How many test rows are left out, and why the first is."""
    return f"{test.name}: {len(unasked):,} of {len(test):,} rows cannot be asked, and are left out; {_first(unasked)}"


def _first(unasked: Mapping[int, str]) -> str:
    row = min(unasked)
    return f"the first is row {row + 1:,}: {unasked[row]}"
