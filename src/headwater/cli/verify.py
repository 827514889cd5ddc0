"""`headwater verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.console import answers, duration, print_error, print_json, print_note, size
from headwater.cli.options import Json, examples
from headwater.cli.places import index_folder, open_indexes, stores_in, unfinished_in
from headwater.errors import StoreError

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
    it was built of. Covers all that was built, for whatever method. Exit code 1 where anything is damaged or of
    another run.
    """
    folder = index_folder(place)
    stores = stores_in(folder)  # Index.open would stop at the first file of the wrong size
    started = time.monotonic()
    problems: list[str] = []
    for store in stores:
        try:
            store.verify()
        except StoreError as error:
            problems += str(error).splitlines()
    problems = list(dict.fromkeys(problems))
    seconds = time.monotonic() - started
    if not problems:
        open_indexes([place], {})
    unfinished = unfinished_in(folder)
    files, total = sum(len(store.manifest.files) for store in stores), sum(store.manifest.bytes for store in stores)
    if as_json:
        facts = {"index": str(folder), "ok": not problems, "problems": problems}
        told = {"stores": [str(store.folder) for store in stores], "unfinished": [str(path) for path in unfinished]}
        print_json({**facts, **told, "files": files, "bytes": total, "seconds": seconds})
    elif not problems:
        read = f"{files} files, {size(total)} read in {duration(seconds)}"
        answers().print(f"[bold green]OK[/bold green]  {read}: whole, and of its run.")
    for path in unfinished:
        print_note(f"{path}: unfinished. Run the same `headwater index` again: it resumes.")
    for problem in problems:
        print_error(problem, name="Damaged")
    if problems:
        raise typer.Exit(1)
