"""`headwater methods`, and the options of all methods for the commands that score."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headwater.cli.console import answers, print_json
from headwater.cli.options import Flag, Given, Json, examples, flags_of
from headwater.errors import UsageError
from headwater.methods import LayerOptions, Method, all_methods, get_method

MethodName = Annotated[
    str,
    typer.Option("--method", metavar="NAME", help="How to score; see `headwater methods`.", rich_help_panel="Method"),
]

_PANEL = "Options of methods"
_GROUPS = {
    "tokens": ("methods over token gradients", "Over token gradients", "headwater index RUN"),
    "layers": ("methods over layers", "Over gradients of layers", "headwater index RUN --method NAME"),
    "representations": (
        "methods over representations",
        "Over what the last layer saw and said",
        "headwater index RUN --method NAME",
    ),
    "texts": ("methods over texts", "Over the texts alone", "nothing to build"),
}

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


def method_flags() -> list[Flag]:
    """Return the options of all methods, each once: a new method's options are offered without a line here."""
    found: dict[str, list[tuple[Method, Flag]]] = {}
    for method in all_methods():
        for flag in flags_of(method.options, panel=_PANEL):
            found.setdefault(flag.name, []).append((method, flag))
    shared = LayerOptions.__dataclass_fields__  # last, as in a method's own page
    return [_merged(found[name]) for name in sorted(found, key=lambda name: name in shared)]


def chosen_method(name: str, options: Given) -> Method:
    """Return the method of this name; the options must be its own. Raises UsageError."""
    method = get_method(name)
    own = [flag.name for flag in flags_of(method.options)]
    for option in options:
        if option not in own:
            spelled = option.replace("_", "-")
            raise UsageError(f"{name} has no option --{spelled}. It has: {', '.join(_spelled(method)) or 'none'}.")
    method.make_options(**options)
    return method


def _spelled(method: Method) -> list[str]:
    return [flag.spelled for flag in flags_of(method.options)]


def _merged(entries: list[tuple[Method, Flag]]) -> Flag:
    """Make one flag of those that methods name alike; their helps stand one after the other."""
    flag = entries[0][1]
    defaults = {entry.default for _, entry in entries}
    helps: dict[str, list[Method]] = {}
    for method, entry in entries:
        helps.setdefault(entry.help, []).append(method)
    text, only = flag.help, _belongs([method for method, _ in entries])
    if len(helps) > 1:
        text = " ".join(f"{_belongs(methods)}: {each}" for each, methods in helps.items())
        only = ""
    return replace(
        flag,
        kind=_kind([entry.kind for _, entry in entries]),
        help=text,
        only=only,
        default=flag.default if len(defaults) == 1 else None,
        either=flag.kind is bool and len(defaults) > 1,
    )


def _kind(kinds: list[Any]) -> Any:
    """Return the type of what may be given: of several sets of words, their union."""
    if all(get_origin(kind) is Literal for kind in kinds):
        return Literal[tuple(dict.fromkeys(word for kind in kinds for word in get_args(kind)))]
    if any(kind != kinds[0] for kind in kinds):
        raise TypeError(f"methods name options alike that are of different types: {kinds}")
    return kinds[0]


def _belongs(methods: list[Method]) -> str:
    """Name methods, those that read the same files together where all of these are meant; "" where all are."""
    names = {method.name for method in methods}
    if len(names) == len(all_methods()):
        return ""
    told: list[str] = []
    for need, (group, _, _) in _GROUPS.items():
        there = [method.name for method in all_methods() if method.need == need]
        if len(there) > 2 and names.issuperset(there):
            told.append(group)
        else:
            told += [name for name in there if name in names]
    return ", ".join(told)


@app.command(epilog=examples("headwater methods", "headwater methods logra", "headwater methods --json"))
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this method's page.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods of attribution; of one, its equation and options.

    A method reads what `headwater index` built for it: token gradients, gradients of layers, or representations; some
    read the texts alone. Whatever the method, a positive score means that the row taught what is explained.
    """
    chosen = None if name is None else get_method(name)
    if as_json:
        facts = [_facts(method) for method in (all_methods() if chosen is None else [chosen])]
        print_json({"methods": facts} if chosen is None else facts[0])
    elif chosen is None:
        _show_table(answers())
    else:
        _show_page(answers(), chosen)


def _show_table(console: Console) -> None:
    for need, (_, title, command) in _GROUPS.items():
        there = [method for method in all_methods() if method.need == need]
        if not there:
            continue
        console.print(Text.assemble((title, "bold"), (f"   {command}", "dim")))
        first = need == next(iter(_GROUPS))
        table = Table(box=None, show_header=first, header_style="dim", padding=(0, 0, 0, 2), expand=True)
        table.add_column("method", width=21, style="bold", no_wrap=True)
        table.add_column("cost of an answer", ratio=1)
        table.add_column("words", width=5)
        table.add_column("paper", width=27)
        for method in there:
            table.add_row(method.name, escape(method.cost), _whether(method.words), escape(_brief(method.paper)))
        console.print(table)
        console.print()
    console.print("One method's equation and options: headwater methods NAME", style="dim")


def _whether(words: str) -> str:
    return re.split(r"\W", words, maxsplit=1)[0]


def _brief(paper: str) -> str:
    """Return authors, year and number of a paper, without its title."""
    authors = re.match(r"[^(]*?\d{4}", paper)
    number = re.search(r"arXiv (\d{4}\.\d{4,5})", paper)
    found = [authors and authors[0], number and number[1]]
    return ", ".join(part for part in found if part) or paper


def _show_page(console: Console, method: Method) -> None:
    facts = _facts(method)
    console.print(f"[bold]{method.name}[/bold]  {escape(method.summary)}\n")
    for paragraph in facts["equation"].split("\n\n"):
        lines = paragraph.splitlines()
        verbatim = any(line.startswith("    ") for line in lines)
        text = "\n".join(lines) if verbatim else " ".join(lines)
        console.print(text + "\n", markup=False, soft_wrap=verbatim)
    console.print(_grid("dim", [(name, facts[name]) for name in ("paper", "words", "needs", "cost")]))
    options = [(option["flag"], option["help"]) for option in facts["options"]]
    if options:
        console.print("\n[bold]Options[/bold] of `query` and `scores`")
        console.print(_grid("bold", options))
    if method.need != "texts":
        named = "" if method.name == "tracin-we" else f" --method {method.name}"
        console.print(f"\nBuild what it reads: headwater index RUN{named}", markup=False)


def _grid(style: str, rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(f"  {name}", escape(text))
    return table


def _facts(method: Method) -> dict[str, Any]:
    flags = {flag.name: flag for flag in flags_of(method.options)}
    given = {name: getattr(method, name) for name in ("name", "summary", "paper", "words", "need", "needs", "cost")}
    return {
        **given,
        "classes_only": method.classes,
        "layers": method.layers if method.need == "layers" else None,
        "equation": inspect.cleandoc(sys.modules[method.options.__module__].__doc__ or ""),
        "options": [
            {
                "name": field.name,
                "flag": flags[field.name].spelled,
                "default": field.default,
                "help": _help(flags[field.name]),
            }
            for field in method.fields
        ],
    }


def _help(flag: Flag) -> str:
    shown = f" [default: {flag.default}]" if flag.default is not None and flag.kind is not bool else ""
    return flag.help + shown
