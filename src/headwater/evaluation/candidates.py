"""What is graded: our methods with their options, and score matrices that another tool made."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import Float32

from headwater.errors import UsageError
from headwater.files import canonical_json
from headwater.gradients.layers import Projector
from headwater.methods import Method, get_method
from headwater.runs import Run, text_task

CONTROL = "random"
_LEXICAL = ("bm25-label", "tfidf-label")
_LEXICAL_OF_TEXTS = ("bm25",)


@dataclass(frozen=True)
class Candidate:
    """One row of the table. A method by its name, or (`scores`) a matrix that is already there."""

    label: str
    method: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    scores: Float32[np.ndarray, "queries rows"] | None = None
    indexed: str | None = None
    """The layers of the set that it reads, where that shall hold more than its own."""
    projector: Projector | None = None
    """How that set is projected; None: as the method's usually is."""

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `NAME`, or `NAME/option=value/option=value`: tracin/layers=quarter:2. Raises UsageError."""
        name, *given = [part.strip() for part in text.strip().split("/")]
        method = get_method(name)
        options: dict[str, Any] = {}
        for part in given:
            key, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"{text}: write an option as {name}/option=value.")
            options[key.strip().replace("-", "_")] = value.strip()
        return cls(text.strip(), name, read_options(method, options))

    @property
    def layers(self) -> str | None:
        """The layers of the set that it reads, if it was told."""
        return self.indexed or self.options.get("layers")

    @property
    def identity(self) -> str:
        """What its scores depend on, beside run and queries."""
        projected = {} if self.projector is None else {"projector": self.projector.to_json()}
        return canonical_json({"method": self.method, "options": dict(self.options), **projected})

    @property
    def slug(self) -> str:
        """A name for its files."""
        return re.sub(r"[^A-Za-z0-9.=-]+", "-", self.label)


def read_options(method: Method, given: Mapping[str, str]) -> dict[str, Any]:
    """Turn what was written into what the method's options hold. Raises UsageError."""
    hints = get_type_hints(method.options)
    known = [entry.name for entry in method.fields]
    made: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{method.name} has no option {name!r}. It has: {', '.join(known) or 'none'}.")
        # several patterns are joined by + here: commas separate methods on the command line
        written = value.replace("+", ",") if name == "layers" else value
        made[name] = _value(f"{method.name}/{name}", written, hints[name])
    method.make_options(**made)
    return made


def candidates_of(
    run: Run,
    methods: Sequence[str | Candidate],
    scores: Mapping[str, Any],
    *,
    baselines: bool,
    queries: int,
) -> list[Candidate]:
    """Everything that is graded, in the order of the table: methods, other tools' scores, baselines.

    Raises UsageError for names that occur twice, methods that need classes where there are none, or matrices that do
    not fit.
    """
    classes = text_task(run.task) is None
    made = [one if isinstance(one, Candidate) else Candidate.parse(one) for one in methods]
    made += [Candidate(name, None, {}, read_scores(name, value, queries, len(run.corpus))) for name, value in
             scores.items()]  # fmt: skip
    if baselines:
        there = {one.label for one in made}
        names = (*(_LEXICAL if classes else _LEXICAL_OF_TEXTS), CONTROL)
        made += [Candidate(name, name) for name in names if name not in there]
    if not made:
        raise UsageError("nothing to grade: name methods, or give scores.")
    labels = [one.label for one in made]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label!r} stands twice among what is graded. Give each a name of its own.")
    slugs = [one.slug.casefold() for one in made]
    for one in made:
        if slugs.count(one.slug.casefold()) > 1:
            raise UsageError(f"{one.label!r}: another name differs from this by its signs alone. Choose other names.")
        if one.method is not None and get_method(one.method).classes and not classes:
            raise UsageError(f"{one.method} needs classes; the task of {run.folder} is {run.task.kind}.")
        if one.scores is not None and one.label == CONTROL:
            raise UsageError(f"{CONTROL!r} is the name of the control. Give these scores another.")
    return made


def read_scores(name: str, value: Any, queries: int, rows: int) -> Float32[np.ndarray, "queries rows"]:
    """Read another tool's scores, a matrix or the path of a .npy file: [queries, rows], positive for a proponent.

    Raises UsageError saying what does not fit.
    """
    where = f"scores {name!r}"
    if isinstance(value, str | Path):
        where = f"{value}"
        try:
            value = np.load(value, allow_pickle=False)
        except FileNotFoundError:
            raise UsageError(f"{value}: no such file.") from None
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{value}: cannot be read as a .npy file of numbers ({error}).") from None
    found = np.asarray(value)
    if found.dtype.kind not in "fiu":
        raise UsageError(f"{where}: holds {found.dtype}, not numbers.")
    if found.shape != (queries, rows):
        told = "shape [" + ", ".join(f"{length:,}" for length in found.shape) + "]"
        hint = " It looks transposed." if found.shape == (rows, queries) else ""
        raise UsageError(f"{where}: has {told}, but must be [{queries:,} queries, {rows:,} training rows].{hint}")
    with np.errstate(over="ignore"):
        single = found.astype(np.float32)
    if not np.isfinite(single).all():
        query, row = np.argwhere(~np.isfinite(single))[0]
        raise UsageError(
            f"{where}: query {query}, row {row} (from 0) is {found[query, row]}: every score must be a finite float32."
        )
    return single


def _value(where: str, text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        if len(kinds) < len(get_args(kind)) and text.casefold() == "none":
            return None
        return _value(where, text, kinds[0])
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        for choice in choices:
            if str(choice) == text:
                return choice
        raise UsageError(f"{where}: {text!r} is not one of {', '.join(map(str, choices))}.")
    if get_origin(kind) is tuple:
        return tuple(_value(where, part, get_args(kind)[0]) for part in text.split("+"))
    if kind is bool:
        if text.casefold() not in ("true", "false"):
            raise UsageError(f"{where}: {text!r} is neither true nor false.")
        return text.casefold() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{where}: {text!r} is no {'whole number' if kind is int else 'number'}.") from None
