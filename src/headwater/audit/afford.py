"""What fits into the time of an audit: small parts of the work are timed, and multiplied.

Cheap detectors come first. Where the model cannot read all rows in its part of the time, word counts judge all of them,
and the model reads those that they believe least; where not even that fits, a part of the rows is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from headwater.attribution.index import Index
from headwater.attribution.seen import look
from headwater.audit.encoder import is_installed, seconds_of
from headwater.audit.evidence import HeldOut
from headwater.audit.folds import FOLDS, WAYS, OutOfSample, Way, out_of_sample, texts_of
from headwater.errors import UsageError
from headwater.models.load import MINILM_WHEEL
from headwater.remedies.cost import retraining_seconds
from headwater.runs.run import Run

Left = Callable[[], float]
"""How many seconds there are left."""

Rows = Int64[np.ndarray, " rows"]

SAFETY = 1.3  # what was timed once may take longer
_READING = 0.25  # of the time: the model's first pass over the rows
_FOLDS = 0.7  # of the time that is then left: folds by the recipe
_HALF = 0.5  # of the time that is then left: any other step
_TIMED = 256  # rows that are read to time a pass
_COUNTED = 4096  # rows that are counted to time word counts
_QUERIES = 4  # clean rows that are asked to time an answer
_SURELY = 10  # times as much time as needed, by a rough estimate: no closer look is worth while


@dataclass(frozen=True)
class Part:
    """The rows that the model reads, ascending, and the seconds that it takes a row (0 where time is no matter).

    `counted` is what word counts say of *all* rows, where `rows` are those that they believe least.
    """

    rows: Rows
    reading: float = 0.0
    counted: OutOfSample | None = None
    notes: tuple[str, ...] = ()


def drawn(count: int, most: int, seed: int) -> Rows:
    """At most so many of `count` rows, ascending; the seed draws."""
    if most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def part_of(
    run: Run,
    ask: Callable[[Rows, Way], OutOfSample],
    left: Left | None,
    *,
    reading: float | None = None,
    seed: int = 0,
) -> Part:
    """The rows that can be read in time. `ask` lets a kind of models judge rows; `reading` are seconds a row, timed if
    not known. Raises UsageError where hardly any row can be read."""
    count = len(run.corpus)
    everything = np.arange(count)
    if left is None:
        return Part(everything)
    reading = _reading_seconds(run, seed) if reading is None else reading
    most = int(left() * _READING / max(reading, 1e-9))
    if most >= count:
        return Part(everything, reading)
    if most < 2 * FOLDS:
        raise UsageError(f"the time is too short: reading one row takes {reading:.2f} s. Give more --budget.")
    if SAFETY * _counting_seconds(run, seed) > _HALF * left():
        note = f"The time did not suffice for all rows: {most:,} of {count:,}, drawn at random, were audited."
        return Part(drawn(count, most, seed), reading, notes=(note,))
    note = (
        f"The time did not suffice for the model to read all rows: word counts judged all {count:,}, and the {most:,} "
        "that they believe least were looked at closely."
    )
    return _least_believed(run, ask, most, reading, (note,))


def part_like(run: Run, ask: Callable[[Rows, Way], OutOfSample], part: Part) -> Part:
    """The rows of a copy of the corpus, as many as `part` has, and chosen as they were."""
    return part if part.counted is None else _least_believed(run, ask, len(part.rows), part.reading, part.notes)


def ways_of(run: Run, part: Part, clean: int, left: Left | None) -> tuple[list[Way], list[str]]:
    """The kinds of models that can be asked in time about the part and so many clean rows, the one that matters most
    first; and what to say about it."""
    ways: list[Way] = []
    notes, needed = [], 0.0
    if run.recipe is not None:
        fits, needed = (True, 0.0) if left is None else _folds_fit(run, part, clean, _FOLDS * left())
        ways += ["recipe"] if fits else []
    if not is_installed():
        notes.append(f"A frozen MiniLM would be asked as well: {MINILM_WHEEL}")
    elif left is None or _encoding_seconds(run, part, clean) <= _HALF * (left() - (needed if ways else 0.0)):
        ways.append("minilm")
    else:
        notes.append("The time did not suffice to ask a frozen MiniLM as well.")
    ways.append("words")
    if run.recipe is None:
        notes.append(f"The run cannot be trained again ({run.no_recipe or 'no recipe'}): {WAYS[ways[0]]} stand in.")
    elif "recipe" not in ways:
        notes.append(
            f"Five folds by the recipe would take about {needed:,.0f} s, beyond the time: {WAYS[ways[0]]} stand in. "
            "Give more --budget for the recipe."
        )
    return ways, notes


def queries_that_fit(index: Index, clean: HeldOut, most: int, left: Left | None, seed: int = 0) -> int:
    """How many clean rows, at most so many, can be asked about all training rows in time."""
    most = min(most, len(clean.corpus))
    if left is None or most <= _QUERIES:
        return most
    few = clean.take(drawn(len(clean.corpus), _QUERIES, seed).tolist())
    each = SAFETY * _timed(lambda: index.scores(few.corpus, few.labels, normalize="train", show=False)) / _QUERIES
    return min(most, int(_HALF * max(left(), 0.0) / max(each, 1e-9)))


def _least_believed(
    run: Run, ask: Callable[[Rows, Way], OutOfSample], most: int, reading: float, notes: tuple[str, ...]
) -> Part:
    """Let word counts judge all rows; take those whose labels they believe least."""
    everything = np.arange(len(run.corpus))
    counted = ask(everything, "words")
    belief = counted.rows[everything, np.asarray(run.targets)]
    return Part(np.sort(np.argsort(belief, kind="stable")[:most]), reading, counted, notes)


def _reading_seconds(run: Run, seed: int) -> float:
    """Seconds that the run's last checkpoint takes to read one row; what comes before the first row is paid once."""
    rows = drawn(len(run.corpus), _TIMED, seed).tolist()
    first = _timed(lambda: look(run, rows[:1], show=False))
    return max(_timed(lambda: look(run, rows, show=False)) - first, 0.0) / len(rows)


def _counting_seconds(run: Run, seed: int) -> float:
    """Seconds that five folds of word counts take over all rows."""
    rows = drawn(len(run.corpus), _COUNTED, seed).tolist()
    return _timed(lambda: out_of_sample(run, rows, None, "words", show=False)) / len(rows) * len(run.corpus)


def _encoding_seconds(run: Run, part: Part, clean: int) -> float:
    """Seconds that a frozen MiniLM takes to read the part and so many clean rows."""
    some = part.rows[drawn(len(part.rows), _TIMED, 0)]
    return SAFETY * seconds_of(texts_of(run.corpus.take(some.tolist()))) / len(some) * (len(part.rows) + clean)


def _folds_fit(run: Run, part: Part, clean: int, left: float) -> tuple[bool, float]:
    """Whether five folds by the recipe fit into so many seconds, and how many they would take.

    A step of training costs three times as much as reading at least; where that may fit, real steps say what it is.
    """
    rows = len(part.rows)
    asked = SAFETY * part.reading * (rows + FOLDS * clean)  # each fold's model is asked about its own, and all clean
    epochs = float(run.need_recipe().arguments.get("num_train_epochs", 3.0))
    needed = asked + SAFETY * part.reading * rows * 3 * epochs * (FOLDS - 1)
    by_steps = int(run.need_recipe().arguments.get("max_steps") or -1) > 0  # how many, only trying can tell
    if not by_steps and (needed > left or _SURELY * needed < left):
        return needed <= left, needed
    small = run if rows == len(run.corpus) else replace(run, corpus=run.corpus.take(part.rows.tolist()))
    needed = asked + SAFETY * (FOLDS - 1) * retraining_seconds(small)
    return needed <= left, needed


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
