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
from dataclasses import MISSING, Field, dataclass, fields
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

    @property
    def negative(self) -> bool:
        """Whether this is a switch that is on unless `--no-NAME` is given."""
        return self.kind is bool and self.default is True

    def parameter(self) -> inspect.Parameter:
        """Return it as typer reads it from a function's signature."""
        spelled = ("--no-" if self.negative else "--") + self.name.replace("_", "-")
        text = escape(self.help)
        if self.default is not None and self.kind is not bool:
            shown = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
            text += f" [dim]{escape(f'[default: {shown}]')}[/dim]"
        metavar = "" if self.kind is bool else self.metavar
        option = typer.Option(
            spelled,
            help=text,
            show_default=False,
            rich_help_panel=self.panel,
            metavar=metavar,
            hidden=self.hidden,
        )
        kind: Any = Annotated[self.kind | None, option]  # read by typer at run time
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    def value(self, given: Any) -> Any:
        """Return what the group's mapping holds for what typer read."""
        if isinstance(given, list):
            return tuple(given)
        return not given if self.negative else given


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
            made = [flag.parameter() for flag in groups[name]] if name in groups else [parameter]
            parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in made]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for group, flags in groups.items():
                taken = {flag: values.pop(flag.name) for flag in flags}
                values[group] = {flag.name: flag.value(it) for flag, it in taken.items() if it not in (None, [])}
            function(**values)

        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    title = "Example" if len(lines) == 1 else "Examples"
    return f"[bold]{title}[/bold]\n\n" + "\n\n".join(escape(line) for line in lines)
