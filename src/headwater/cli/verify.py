"""`headwater verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.console import answers, duration, print_error, print_json, size
from headwater.cli.options import Json, examples
from headwater.cli.places import index_folder, open_indexes
from headwater.errors import StoreError
from headwater.store import Store
from headwater.store.manifest import read_manifest

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog=examples("headwater verify runs/first", "headwater verify /big-disk/first-index --json"))
def verify(
    place: Annotated[
        Path,
        typer.Argument(metavar="RUN|INDEX", help="Folder of a run or of an index.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Read every byte of an index, and say whether it is whole.

    Compares each file with its checksum, then the index with its run: model, tokenizer and corpus must be those that
    it was built of. Exit code 1 where anything is damaged or of another run.
    """
    folder = index_folder(place)
    store = Store(folder, read_manifest(folder))  # Store.open would stop at the first file of the wrong size
    started = time.monotonic()
    problems: list[str] = []
    try:
        store.verify()
    except StoreError as error:
        problems = str(error).splitlines()
    seconds = time.monotonic() - started
    if not problems:
        open_indexes([place], {})
    files = len(store.manifest.files)
    if as_json:
        facts = {"index": str(folder), "ok": not problems, "problems": problems}
        print_json({**facts, "files": files, "bytes": store.bytes, "seconds": seconds})
    elif not problems:
        told = f"{files} files, {size(store.bytes)} read in {duration(seconds)}"
        answers().print(f"[bold green]OK[/bold green]  {told}: whole, and of its run.")
    for problem in problems:
        print_error(problem, name="Damaged")
    if problems:
        raise typer.Exit(1)
