"""`headwater methods`, and the options of all methods for the commands that score."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headwater.cli.console import answers, print_json
from headwater.cli.options import Flag, Json, examples, flags_of
from headwater.methods import Method, all_methods

MethodName = Annotated[
    str,
    typer.Option("--method", metavar="NAME", help="How to score; see `headwater methods`.", rich_help_panel="Method"),
]

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


def method_flags() -> list[Flag]:
    """Return the options of all methods, each once: a new method's options are offered without a line here."""
    found: dict[str, Flag] = {}
    for method in all_methods():
        for flag in flags_of(method.options, panel="Method"):
            found.setdefault(flag.name, flag)
    return list(found.values())


@app.command(epilog=examples("headwater methods", "headwater methods --json"))
def methods(as_json: Json = False) -> None:
    """List the methods of attribution and their options."""
    if as_json:
        print_json({"methods": [_facts(method) for method in all_methods()]})
        return
    console = answers()
    for method in all_methods():
        facts = _facts(method)
        console.print(f"[bold]{method.name}[/bold]")
        console.print(_grid("dim", [(name, facts[name]) for name in ("summary", "paper", "words", "needs", "cost")]))
        console.print(_grid("bold", [(_flag(option), option["help"]) for option in facts["options"]]))
        console.print()


def _grid(style: str, rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True, min_width=21)
    table.add_column()
    for name, text in rows:
        table.add_row(f"  {name}", escape(text))
    return table


def _flag(option: dict[str, Any]) -> str:
    spelled = option["name"].replace("_", "-")
    return f"--no-{spelled}" if option["default"] is True else f"--{spelled}"


def _facts(method: Method) -> dict[str, Any]:
    return {
        **{name: getattr(method, name) for name in ("name", "summary", "paper", "words", "needs", "cost")},
        "options": [
            {"name": field.name, "default": field.default, "help": field.metadata.get("help", "")}
            for field in fields(method.options)
        ],
    }
