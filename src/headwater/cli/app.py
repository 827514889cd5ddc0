"""The application: its commands, each imported only when it is called, and how errors leave it.

Importing torch takes seconds, and `headwater --help` needs none of it; so the list of commands is written here, and a
command's own module, which knows its options, is imported when the command is run or asked for help.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import headwater
from headwater.cli.console import print_error, quiet
from headwater.errors import HeadwaterError, UsageError

INTERRUPTED = 130
BEGUN = "headwater.begun"
"""Where a context's `meta` says when the command was called (time.monotonic())."""


@dataclass(frozen=True)
class Entry:
    """A command: where its `app` is, the panel it is listed under, and the first line of its help."""

    module: str
    panel: str
    summary: str
    interrupted: str = ""
    """What to say of the state that Ctrl-C leaves."""


_START, _INDEX, _ASK, _JUDGE = "Start", "Build an index", "Ask", "Judge"
_RESUMES = "; run the same command again to resume"
_UNFINISHED = "; --out holds an unfinished training: delete it before you train there again"

COMMANDS = {
    "demo": Entry("demo", _START, "See it work on real data: train, explain, repair, retrain, compare."),
    "train": Entry(
        "train", _START, "Train a classifier or a language model, and record what explaining it will need.", _UNFINISHED
    ),
    "estimate": Entry(
        "estimate",
        _INDEX,
        "Say what an index will cost: time, disk, memory. Or a batch of queries, or an evaluation.",
    ),
    "index": Entry(
        "index", _INDEX, "Index a run: what every training row taught, for the methods that you will ask.", _RESUMES
    ),
    "layers": Entry(
        "layers", _INDEX, "List a model's layers, what a pattern selects of them, and how much they cancel."
    ),
    "compact": Entry(
        "compact", _INDEX, "Rewrite an index that has grown: full files, without rows that were changed or removed."
    ),
    "verify": Entry("verify", _INDEX, "Read every byte of an index, and say whether it is whole."),
    "query": Entry("query", _ASK, "Explain predictions: the training rows, and the words in them, behind each."),
    "report": Entry("report", _ASK, "Write a page about a model's mistakes, and what taught it each of them."),
    "serve": Entry("serve", _ASK, "Open the workbench in a browser: see why, mark rows, repair, retrain, prove."),
    "scores": Entry("scores", _ASK, "Score queries against every training row, into a .npy file."),
    "methods": Entry("methods", _ASK, "List the methods of attribution; of one, its equation and options."),
    "evaluate": Entry(
        "evaluate",
        _JUDGE,
        "Grade methods of attribution by retraining: which should I believe, on this run?",
        _RESUMES,
    ),
    "audit": Entry(
        "audit",
        _JUDGE,
        "Find what is wrong in the training rows, and write a plan that repairs it.",
    ),
    "fix": Entry(
        "fix",
        _JUDGE,
        "Apply a repair plan to a new corpus, and prove by retraining whether it helped.",
        _RESUMES,
    ),
    "patch": Entry(
        "patch",
        _JUDGE,
        "Mend wrong answers by a few small steps on the training rows that speak for the right ones.",
    ),
}


class Commands(TyperGroup):
    """The group of all commands, and the one place where errors are turned into a line and an exit code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, entry in COMMANDS.items():  # what a list needs; `resolve_command` loads the rest
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the module of the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What the user can mend is one line; anything else is a bug and keeps its traceback."""
        ctx.meta[BEGUN] = time.monotonic()  # importing a command takes seconds, too
        with quiet():
            try:
                return super().invoke(ctx)
            except HeadwaterError as error:
                print_error(str(error))
                raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
            except KeyboardInterrupt as error:
                entry = COMMANDS.get(str(ctx.invoked_subcommand))
                print_error(f"Interrupted{entry.interrupted if entry else ''}.", name="")
                raise typer.Exit(INTERRUPTED) from error
            except Exception as error:
                if not _is_full_disk(error):
                    raise
                print_error("the disk is full. Free some space, or choose another folder with --out.")
                raise typer.Exit(1) from error


def _is_full_disk(error: Exception) -> bool:
    """Recognise a full disk also where a library written in Rust (safetensors, tokenizers) tells it in words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)


def load_command(name: str) -> Any:
    """Import a command's module and make the command."""
    module = import_module(f"headwater.cli.{COMMANDS[name].module}")
    command = typer.main.get_command(module.app)
    command.name = name
    command.help = _flowing(command.help or "")
    return command


def _flowing(text: str) -> str:
    """Join the lines of each paragraph, so that they are broken where the terminal ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headwater {headwater.__version__}")
        raise typer.Exit()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    epilog="[bold]Example[/bold]\n\n"
    "headwater train --data train.jsonl --out my-run\n\n"
    "headwater index my-run\n\n"
    'headwater query my-run --text "win a free phone" --html why.html'
)
def _headwater(
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Trace what a language model says to the training examples, and the words in them, that taught it."""
