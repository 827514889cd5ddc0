"""Filling a bank: here or in processes, within a time, each finished retraining on disk before the next is begun."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError, HeadwaterWarning
from headwater.evaluation.bank.identity import on_cpu, run_facts
from headwater.evaluation.bank.manifest import RETRAINS, note_time, read_times, retrain_path
from headwater.evaluation.bank.outputs import write_outputs
from headwater.evaluation.bank.workers import Item, Worker, work
from headwater.files import remove_leftovers
from headwater.progress import progress_bar
from headwater.runs.record import has_record
from headwater.runs.run import Run

if TYPE_CHECKING:
    from headwater.evaluation.bank.bank import RetrainBank

_MARGIN = 1.25  # a retraining is begun only if there is so much more time than it should take
_RECENT = 20  # retrainings whose pace counts


class _OutOfTimeError(Exception):
    """The clock reached the end in the middle of a training."""


@dataclass(frozen=True)
class Pace:
    """How long a retraining takes, from those that were done: seconds in proportion to rows."""

    seconds_a_row: float | None
    """None before the first."""

    @classmethod
    def of(cls, bank: RetrainBank) -> Pace:
        """The median pace of the bank's latest retrainings."""
        sizes = bank.manifest.masks.sum(axis=1)
        latest = list(read_times(bank.folder).items())[-_RECENT:]
        paces = [seconds / sizes[item[0]] for item, seconds in latest if item[0] < len(sizes)]
        return cls(float(statistics.median(paces)) if paces else None)

    def seconds(self, bank: RetrainBank, items: Sequence[Item]) -> float | None:
        """What these would take, one after the other; None before the first retraining."""
        if self.seconds_a_row is None:
            return None
        sizes = bank.manifest.masks.sum(axis=1)
        return self.seconds_a_row * float(sum(int(sizes[number]) for number, _ in items))


def fill(
    bank: RetrainBank,
    run: Run,
    *,
    until: float | None,
    processes: int | None,
    most: int | None,
    only: Collection[Item] | None,
    show: bool | None,
) -> int:
    """Do what `RetrainBank.fill` says; the bank is locked."""
    remove_leftovers(bank.folder / RETRAINS)
    wanted = None if only is None else set(only)
    todo = list(islice((item for item in bank.missing() if wanted is None or item in wanted), most))
    count = min(len(todo), usual_processes(bank, run) if processes is None else max(1, processes))
    done = 0
    with progress_bar("retraining", len(todo), unit="retrainings", show=show) as advance:

        def keep(item: Item, content: bytes, seconds: float) -> None:
            nonlocal done
            write_outputs(retrain_path(bank.folder, item), content)
            note_time(bank.folder, item, seconds)
            done += 1
            advance(1)

        following = _within(bank, todo, until)
        if count > 1 and _opens_elsewhere(run):
            threads = int(bank.manifest.identity["threads"])
            folders = run.folder.resolve(), bank.folder.resolve()
            work(lambda: Worker(*folders, threads), count, lambda: next(following, None), keep, until=until)
            return done
        retrainer = None
        for item in following:
            retrainer = retrainer or bank.retrainer()
            try:
                keep(item, *bank.retrained(retrainer, item, lambda: _check_clock(until)))
            except _OutOfTimeError:
                break
    return done


def usual_processes(bank: RetrainBank, run: Run) -> int:
    """One a core, or one alone where a GPU does the work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(bank.manifest.identity["threads"])) if on_cpu(run) else 1


def _within(bank: RetrainBank, todo: Sequence[Item], until: float | None) -> Iterator[Item]:
    """Give one item after another, as long as there is time for it."""
    for item in todo:
        if until is not None:
            expected = Pace.of(bank).seconds(bank, [item]) or 0.0
            if time.monotonic() + _MARGIN * expected >= until:
                return
        yield item


def _check_clock(until: float | None) -> None:
    if until is not None and time.monotonic() >= until:
        raise _OutOfTimeError


def _opens_elsewhere(run: Run) -> bool:
    """Whether another process finds the same run in its folder; if not, say so: this process works alone."""
    try:
        same = has_record(run.folder) and run_facts(Run.open(run.folder)) == run_facts(run)
    except HeadwaterError:
        same = False
    if not same:
        what = f"{run.folder}: other processes cannot open this run as it is here (its task, corpus or recipe was given"
        warnings.warn(f"{what} by hand), so this process retrains alone.", HeadwaterWarning, stacklevel=5)
    return same
