"""What all pages share: the index, the labelled texts that are asked about, and the worker that may use the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from pydantic import AfterValidator
from starlette.concurrency import run_in_threadpool

from headwater.attribution.index import Index
from headwater.attribution.overview import Overview, survey
from headwater.attribution.view import clean
from headwater.errors import StoreError, UsageError
from headwater.runs import Corpus
from headwater.web.worker import Worker

Made = TypeVar("Made")

KEPT = 128  # answers


@dataclass
class Workbench:
    """One server's state. `queries` are labelled texts that the training never saw; None: there are none.

    It is of the index as it was opened: when that changes on disk, `fresh` gives another, which knows none of the
    answers of this one. A request keeps the one that it began with, so that no answer is of both.
    """

    index: Index
    queries: Corpus | None
    worker: Worker = field(default_factory=Worker)
    _kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict, repr=False)
    _of_model: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """What hangs on the model and the queries alone; it outlives the index."""
    _opening: Lock = field(default_factory=Lock, repr=False)
    _next: Workbench | None = field(default=None, repr=False)

    @property
    def held_out(self) -> Corpus:
        """Return the labelled texts. Raises UsageError where there are none."""
        if self.queries is None:
            raise UsageError(
                "This run kept no evaluation rows. Start the workbench with texts: headwater serve RUN --queries FILE."
            )
        return self.queries

    async def overview(self) -> Overview:
        """Return what the model says of the queries; computed once, by the worker. Raises BusyError, UsageError."""
        if "overview" not in self._of_model:
            run, texts = self.index.run, self.held_out
            make = _kept_in(self._of_model, "overview", lambda: survey(run, texts, show=False))
            return await self.worker.run(make, key="overview")
        return cast(Overview, self._of_model["overview"])

    async def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, by the worker; what was made lately is kept, and costs the model nothing.

        Who asks for the same while it is being made waits for the same. What has begun is kept, also where who asked
        has gone away meanwhile.
        """
        if key not in self._kept:
            made = await self.worker.run(_kept_in(self._kept, key, make), key=(id(self), key))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return made
        self._kept.move_to_end(key)
        return cast(Made, self._kept[key])

    def knows(self, key: Hashable) -> bool:
        """Say whether `once` has what belongs to a key."""
        return key in self._kept

    async def fresh(self) -> Workbench:
        """Return the state of the index as it is on disk: this one, or where it was changed, a new one.

        It is opened beside the worker, once for all who ask: that reads files, and leaves models as they are loaded.
        Raises StoreError where it cannot be opened.
        """
        return self if self.index.is_current() else await run_in_threadpool(self._after)

    def _after(self) -> Workbench:
        with self._opening:
            if self._next is None or not self._next.index.is_current():
                index = self.index.reopened()
                self._next = replace(self, index=index, _kept=OrderedDict(), _opening=Lock(), _next=None)
            return self._next


def _kept_in(place: MutableMapping[Hashable, Any], key: Hashable, make: Callable[[], Made]) -> Callable[[], Made]:
    """Make, and keep what was made: the worker writes, one key at a time; all else happens in the loop's thread."""

    def kept() -> Made:
        made = make()
        place[key] = made
        return made

    return kept


async def fresh_bench(request: Request) -> Workbench:
    """Return the server's state, with the index as it is on disk."""
    state = request.app.state
    before: Workbench = state.workbench
    after = await before.fresh()
    if after is not before and state.workbench is before:  # else another request was faster
        state.workbench = after
    return cast(Workbench, state.workbench)


async def _standing(request: Request) -> Workbench:
    try:
        return await fresh_bench(request)
    except StoreError:
        return cast(Workbench, request.app.state.workbench)


Bench = Annotated[Workbench, Depends(fresh_bench)]
"""A route's parameter: the server's state, with the index as it is on disk."""

Standing = Annotated[Workbench, Depends(_standing)]
"""The same, or where the index cannot be opened, as it was: for marks and jobs, which need the run alone."""

Typed = Annotated[str, AfterValidator(clean)]
"""What a user typed: NUL and lone surrogates, which no page can hold, are U+FFFD."""
