"""`headwater verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.console import answers, duration, print_error, print_json, size
from headwater.cli.options import Json, examples
from headwater.cli.places import index_folder, open_indexes
from headwater.files import file_digest
from headwater.progress import progress_bar
from headwater.store.manifest import Manifest, read_manifest

_AGAIN = "Delete what is damaged and run `headwater index` again: only what is missing is built."

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
    manifest = read_manifest(folder)
    started = time.monotonic()
    problems = damaged_files(folder, manifest)
    seconds = time.monotonic() - started
    read = sum(entry.bytes for entry in manifest.files.values())
    if not problems:
        open_indexes([place], {})
    if as_json:
        facts = {"index": str(folder), "ok": not problems, "problems": problems}
        print_json({**facts, "files": len(manifest.files), "bytes": read, "seconds": seconds})
    elif not problems:
        told = f"{len(manifest.files)} files, {size(read)} read in {duration(seconds)}"
        answers().print(f"[bold green]OK[/bold green]  {told}: whole, and of its run.")
    if problems:
        for problem in problems:
            print_error(problem)
        print_error(f"{len(problems)} of {len(manifest.files)} files are damaged. {_AGAIN}", name=str(folder))
        raise typer.Exit(1)


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Compare every file of an index with its size and checksum; return a sentence for each that differs."""
    problems = []
    total = sum(entry.bytes for entry in manifest.files.values())
    with progress_bar("verify", round(total / 1e6), unit="MB") as advance:
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{path}: this file is missing.")
            elif path.stat().st_size != entry.bytes:
                problems.append(f"{path}: {path.stat().st_size:,} bytes, not {entry.bytes:,}: truncated or replaced.")
            elif file_digest(path) != entry.xxh3:
                problems.append(f"{path}: its bytes have changed since it was written (checksum).")
            advance(round(entry.bytes / 1e6))
    return problems
