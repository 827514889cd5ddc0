"""The queries of an evaluation, and its test rows: a file, a corpus, or rows of what the run was evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headwater.errors import DataError, UsageError
from headwater.evaluation.bank.queries import check_queries
from headwater.runs import Corpus, Run

_TESTS = 1000  # drawn, if nobody says how many


def asked_queries(run: Run, queries: Corpus | str | Path | int, *, seed: int) -> Corpus:
    """Read the queries, whose labels are what is explained. A number draws rows of the run's eval corpus.

    Raises UsageError, DataError.
    """
    if isinstance(queries, int):
        return _drawn(run, queries, seed)
    found = queries if isinstance(queries, Corpus) else Corpus.read(queries, replace(run.corpus.columns, id=None))
    check_queries(run, found)
    return found


def test_rows(run: Run, queries: Corpus, test: Corpus | str | Path | int | None, *, seed: int) -> Corpus:
    """Rows that tell how good a model is, none of them a query: of a file, a corpus, or drawn of the eval corpus.

    A number draws so many of the run's evaluation rows that are no queries; None all of them, at most 1,000. Raises
    UsageError where none are left, or fewer than asked for; DataError.
    """
    if isinstance(test, int) and test < 1:
        raise UsageError(f"test must be at least 1 row, not {test}.")
    drawn = test is None or isinstance(test, int)
    there = run.eval_corpus if drawn else test
    if there is None:
        raise UsageError(f"{run.folder}: keeps no evaluation rows to test on. Name a file of test rows (test).")
    if isinstance(there, str | Path):
        there = Corpus.read(there, replace(run.corpus.columns, id=None))
    assert isinstance(there, Corpus)
    asked = {(example.text, example.text_pair) for example in queries}
    rows = [example.row for example in there if (example.text, example.text_pair) not in asked]
    if not rows or (isinstance(test, int) and len(rows) < test):
        wish = f"{test:,} test rows asked for, but " if isinstance(test, int) else ""
        raise UsageError(f"{there.name}: {wish}{len(rows):,} of its {len(there):,} rows are no queries. Ask fewer "
                         "queries, or name a file of test rows (test).")  # fmt: skip
    if drawn:
        count = test if isinstance(test, int) else _TESTS
        rows = [rows[place] for place in np.random.default_rng([seed, 5]).permutation(len(rows))[:count]]
    found = there.take(rows)
    check_queries(run, found)
    return found


def _drawn(run: Run, count: int, seed: int) -> Corpus:
    if count < 1:
        raise UsageError(f"queries must be at least 1, not {count}.")
    if run.eval_corpus is None:
        raise DataError(f"{run.folder}: keeps no evaluation rows to draw queries from. Name a file of queries.")
    there = run.eval_corpus
    if count > len(there):
        raise UsageError(f"{count:,} queries asked for, but the run's evaluation rows are {len(there):,}.")
    rows = np.random.default_rng([seed, 2]).permutation(len(there))[:count]
    drawn = there.take(rows.tolist())
    check_queries(run, drawn)
    return drawn
