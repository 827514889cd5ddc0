"""What all pages share: the index, the labelled texts that are asked about, and the worker that may use the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from pydantic import AfterValidator

from headwater.attribution.index import Index
from headwater.attribution.overview import Overview, survey
from headwater.attribution.view import clean
from headwater.errors import UsageError
from headwater.runs import Corpus
from headwater.web.worker import Worker

Made = TypeVar("Made")

KEPT = 128  # answers


@dataclass
class Workbench:
    """One server's state. `queries` are labelled texts that the training never saw; None: there are none."""

    index: Index
    queries: Corpus | None
    worker: Worker = field(default_factory=Worker)
    _kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict, repr=False)

    @cached_property
    def _survey(self) -> Overview:
        return survey(self.index.run, self.held_out, show=False)

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
        if "_survey" in self.__dict__:
            return self._survey
        return await self.worker.run(lambda: self._survey)

    async def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, by the worker; what was made lately is kept, and costs the model nothing."""
        if key not in self._kept:
            made = await self.worker.run(lambda: self._kept[key] if key in self._kept else make())
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return cast(Made, self._kept[key])


def _bench(request: Request) -> Workbench:
    return cast(Workbench, request.app.state.workbench)


Bench = Annotated[Workbench, Depends(_bench)]
"""A route's parameter: the server's state."""

Typed = Annotated[str, AfterValidator(clean)]
"""What a user typed: NUL and lone surrogates, which no page can hold, are U+FFFD."""
