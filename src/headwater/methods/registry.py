"""The methods there are. A new one is a file beside this one and an entry here; every face then offers it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from headwater.errors import UsageError
from headwater.methods import tracin_we


@dataclass(frozen=True)
class Method:
    """A way to compare queries with training rows."""

    name: str
    summary: str
    needs: str
    cost: str
    words: str
    paper: str
    options: type[Any]
    prepare: Callable[..., Any]
    score: Callable[..., None]
    rounding: Callable[..., Any]
    explain: Callable[..., Any]

    def make_options(self, **given: Any) -> Any:
        """Make the options of this method. Raises UsageError naming an unknown one and those there are."""
        known = [field.name for field in fields(self.options)]
        for name in given:
            if name not in known:
                raise UsageError(f"{self.name} has no option {name!r}. It has: {', '.join(known)}.")
        return self.options(**given)


_METHODS = (
    Method(
        name="tracin-we",
        summary="dot product of the gradients on the word-embedding matrix, word by shared word",
        needs="an index (one forward and one activation-backward pass a checkpoint)",
        cost="milliseconds a query, read from the index",
        words="exact: the scores of word pairs add up to the score of the row",
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tracin_we.TracInWE,
        prepare=tracin_we.prepare,
        score=tracin_we.tracin_we,
        rounding=tracin_we.rounding,
        explain=tracin_we.explain,
    ),
)


def all_methods() -> tuple[Method, ...]:
    """Return every method, in the order of the registry."""
    return _METHODS


def get_method(name: str) -> Method:
    """Return the method of this name. Raises UsageError that lists the choices."""
    for method in _METHODS:
        if method.name == name:
            return method
    names = [method.name for method in _METHODS]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no method {name!r}.{hint} There are: {', '.join(names)}.")
