"""Command-line options made of data classes, so that a sentence of help and a default are written once.

A command takes a group of options as one mapping that holds only what the user gave:

    @app.command()
    @takes(settings=flags_of(TrainSettings))
    def train(data: ..., settings: Given) -> None:
        train(..., TrainSettings(**settings))
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

Given = Mapping[str, Any]
"""The options of a group that the user gave, by their Python names."""

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON on stdout, and nothing else there.")]


@dataclass(frozen=True)
class Flag:
    """One option of a group. `default` is only shown: an option that is not given is left out of `Given`."""

    name: str
    kind: Any
    help: str
    default: Any = None
    panel: str | None = None
    metavar: str | None = None
    hidden: bool = False
    only: str = ""
    """Of what it is an option, where not of all."""
    either: bool = False
    """A switch that is on for some and off for others, unless it is given: both --NAME and --no-NAME."""

    @property
    def negative(self) -> bool:
        """Whether this is a switch that is on unless `--no-NAME` is given."""
        return self.kind is bool and self.default is True and not self.either

    @property
    def spelled(self) -> str:
        """Return it as it is written on the command line."""
        name = self.name.replace("_", "-")
        return f"--no-{name}" if self.negative else f"--{name}"

    def parameters(self) -> list[inspect.Parameter]:
        """Return it as typer reads it from a function's signature."""
        if not self.either:
            return [self._parameter()]
        off = replace(self, name=f"no_{self.name}", either=False, hidden=True)
        return [
            replace(self, help=f"{self.help} --no-{self.name.replace('_', '-')}: do not.")._parameter(),
            off._parameter(),
        ]

    def _parameter(self) -> inspect.Parameter:
        text = escape(self.help)
        if self.only:
            text += f" [dim]({escape(self.only)})[/dim]"
        if self.default is not None and self.kind is not bool:
            shown = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
            text += f" [dim]{escape(f'[default: {shown}]')}[/dim]"
        metavar = "" if self.kind is bool else self.metavar
        option = typer.Option(
            self.spelled,
            help=text,
            show_default=False,
            rich_help_panel=self.panel,
            metavar=metavar,
            hidden=self.hidden,
        )
        kind: Any = Annotated[self.kind | None, option]  # read by typer at run time
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    def taken(self, values: dict[str, Any]) -> Any:
        """Take out what typer read of it, and return what the group's mapping holds; None where it was not given."""
        given = values.pop(self.name)
        if self.either and values.pop(f"no_{self.name}"):
            given = False
        if isinstance(given, list):
            return tuple(given) or None
        return not given if self.negative and given is not None else given


def flags_of(
    options: type[Any],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    panel: str | None = None,
) -> list[Flag]:
    """Make options of a data class's fields. Each field's metadata["help"] is its help; "off" that of a --no-NAME."""
    hints = get_type_hints(options)
    return [
        _flag(field, _without_none(hints[field.name]), panel)
        for field in fields(options)
        if field.name not in skip and (only is None or field.name in only)
    ]


def _flag(field: Field[Any], kind: Any, panel: str | None) -> Flag:
    text = str(field.metadata.get("help", ""))
    default = None if field.default is MISSING else field.default
    if get_origin(kind) is tuple:
        return Flag(field.name, list[get_args(kind)[0]], f"{text} Repeat for several.", None, panel, "NAME")  # type: ignore[misc]
    if default is True:
        text = str(field.metadata.get("off", text))
    metavar = None if get_origin(kind) is Literal else {int: "N", float: "X"}.get(kind, "NAME")
    return Flag(field.name, kind, text, default, panel, metavar)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else hint
    return hint


def takes(**groups: Sequence[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `groups`; each group reaches it as one mapping under the group's name."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            made = [each for flag in groups[name] for each in flag.parameters()] if name in groups else [parameter]
            parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in made]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for group, flags in groups.items():
                taken = {flag.name: flag.taken(values) for flag in flags}
                values[group] = {name: value for name, value in taken.items() if value is not None}
            function(**values)

        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    title = "Example" if len(lines) == 1 else "Examples"
    return f"[bold]{title}[/bold]\n\n" + "\n\n".join(escape(line) for line in lines)
