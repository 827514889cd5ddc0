"""The queries of an evaluation: a file, a corpus, or so many rows of what the run was evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headwater.errors import DataError, UsageError
from headwater.evaluation.bank.queries import check_queries
from headwater.runs import Corpus, Run


def asked_queries(run: Run, queries: Corpus | str | Path | int, *, seed: int) -> Corpus:
    """Read the queries, whose labels are what is explained. A number draws rows of the run's eval corpus.

    Raises UsageError, DataError.
    """
    if isinstance(queries, int):
        return _drawn(run, queries, seed)
    found = queries if isinstance(queries, Corpus) else Corpus.read(queries, replace(run.corpus.columns, id=None))
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
