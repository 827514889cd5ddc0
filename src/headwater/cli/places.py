"""From what the user names (RUN, INDEX, FILE) to runs, indexes and corpora."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.options import Flag, Given
from headwater.cli.tasks import TASK_FLAGS, read_task
from headwater.errors import RunError, StoreError, UsageError

if TYPE_CHECKING:
    from headwater import Columns, Corpus, Index, Run
    from headwater.methods import Method
    from headwater.store import RowStore, Store

COLUMN_FLAGS = [
    Flag("text_column", str, "Column of the text.", "text", metavar="NAME"),
    Flag("text_pair_column", str, "Column of the second text, where rows are pairs.", metavar="NAME"),
    Flag("label_column", str, "Column of the label.", "label", metavar="NAME"),
    Flag("id_column", str, "Column of your own ids.", metavar="NAME"),
    Flag("weight_column", str, "Column of weights: how much each row counts in training.", metavar="NAME"),
]
"""Which columns of a training file hold what."""

_PLAIN = "A Trainer folder that Headwater did not record"

PLAIN_FLAGS = [
    Flag("data", str, "The rows it was trained on: a file, or hub:owner/name.", panel=_PLAIN, metavar="FILE"),
    *(replace(flag, panel=_PLAIN) for flag in [*COLUMN_FLAGS, *TASK_FLAGS]),
    Flag("max_length", int, "Tokens at which texts were cut in training.", panel=_PLAIN, metavar="N"),
]
"""What a recorded run says of itself, and a plain Trainer folder does not."""

QUERY_FLAGS = [
    *(replace(flag, panel="Columns of FILE, if not called as in training", default=None) for flag in COLUMN_FLAGS[:3]),
    *(
        replace(flag, hidden=True)
        for flag in PLAIN_FLAGS
        if flag.name in ("data", "max_length", "id_column", "weight_column")
    ),
]
"""The columns of a file of queries. An index holds its corpus, so a plain Trainer folder need not be told it again."""

RunPlace = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Places = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN|INDEX",
        help="Folder of a run, whose index is RUN/index, or of an index. The scores of several are averaged.",
        show_default=False,
    ),
]


def columns_of(given: Given, base: Columns | None = None) -> Columns | None:
    """Return the columns that the options name, the others as in `base`; None where nothing is named."""
    from headwater.runs import Columns

    names = {flag.name.removesuffix("_column"): given[flag.name] for flag in COLUMN_FLAGS if flag.name in given}
    return replace(base or Columns(), **names) if names else base


def open_run(folder: Path, given: Given) -> Run:
    """Open a run; a plain Trainer folder needs `--data`. Raises RunError, UsageError, DataError, ModelError."""
    from headwater.runs import Run

    if not folder.exists():
        raise RunError(f"{folder}: no such folder.")
    if _is_recorded(folder):
        for name in given:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{folder}: this run keeps its own corpus and settings. Leave {option} out.")
        return Run.open(folder)
    if not _has_checkpoints(folder):
        raise _neither(folder)
    if "data" not in given:
        raise UsageError(
            f"{folder}: a plain Trainer folder does not say what it was trained on. Give the file: --data FILE "
            "(with --text-column, --label-column and --max-length where they differ from the usual)."
        )
    corpus, task = read_task(given["data"], given, given, max_length=given.get("max_length"))
    return Run.open(folder, corpus=corpus, task=task)


def labelled(run: Run, queries: str | None, given: Given) -> Corpus:
    """Read the file of texts with their labels, or take the run's own evaluation rows. Raises UsageError, DataError."""
    from headwater.attribution.overview import held_out
    from headwater.runs import Corpus

    if queries is None:
        return held_out(run)
    base = run.corpus.columns
    return Corpus.read(queries, replace(columns_of(given, base) or base, id=None))


def open_indexes(
    places: Sequence[Path], given: Given, method: Method | None = None, layers: str | None = None
) -> Index:
    """Open the index of each place, with its run; for a method that reads texts alone the run, be it indexed or not.

    Raises StoreError naming the command that builds what is missing; `layers` is what the method was told to read.
    """
    from headwater.attribution.elsewhere import fetched
    from headwater.attribution.index import Index

    places = [fetched(place) for place in places]
    if method is not None and method.need == "texts" and not any(map(_is_index, places)):
        return Index.of([_indexed_or_not(place, given) for place in places])
    folders = [index_folder(place, method, layers) for place in places]
    return Index.open(folders, run=[_run_of(*pair, given) for pair in zip(places, folders, strict=True)])


def index_folder(place: Path, method: Method | None = None, layers: str | None = None) -> Path:
    """Return the folder of the index that a place means; one in a bucket is fetched. Raises RunError, StoreError."""
    from headwater.attribution.elsewhere import fetched

    place = fetched(place)
    if not place.exists():
        raise RunError(f"{place}: no such folder.")
    if not (_is_index(place) or _is_recorded(place) or _has_checkpoints(place)):
        raise _neither(place)
    folder = place if _is_index(place) else place / "index"
    options = "" if method is None or method.name == "tracin-we" else f" --method {method.name}"
    options += "" if layers is None else f" --layers {shlex.quote(layers)}"
    if not _is_index(folder):
        raise StoreError(
            f"{place}: this run has no index yet. Build it: headwater index {place}{options} "
            "(or name the folder that you gave to --out)."
        )
    if not _holds_tokens(folder) and len(unfinished_in(folder)) == len(_row_folders(folder)):
        raise StoreError(f"{folder}: this index is unfinished. Run the same `headwater index` again: it resumes.")
    return folder


def stores_in(folder: Path) -> list[Store | RowStore]:
    """Return what is stored in an index, the sizes of its files unseen. Raises StoreError for a damaged manifest."""
    from headwater.store import RowManifest, RowStore, Store
    from headwater.store.manifest import NAME, read_contents, read_manifest

    finished = [place for place in _row_folders(folder) if (place / NAME).is_file()]
    found: list[Store | RowStore] = []
    if (folder / NAME).is_file() or not finished:
        found.append(Store(folder, read_manifest(folder)))
    return [*found, *(RowStore(place, read_contents(place, RowManifest)) for place in finished)]


def unfinished_in(folder: Path) -> list[Path]:
    """Return the stores of an index whose building was interrupted."""
    places = [folder, *_row_folders(folder)]
    return [place for place in places if (place / "segments").is_dir() and not (place / "manifest.json").is_file()]


def _row_folders(folder: Path) -> list[Path]:
    found = {path.parent for pattern in _ROW_STORES for path in folder.glob(pattern)}
    return sorted(found)


_ROW_STORES = [f"{place}/{part}" for place in ("layers/*", "representations") for part in ("segments", "manifest.json")]


def _indexed_or_not(place: Path, given: Given) -> Run:
    from headwater.attribution.members import is_indexed

    folder = place / "index"
    return _run_of(place, folder, given) if is_indexed(folder) else open_run(place, _told(place, given))


def _run_of(place: Path, folder: Path, given: Given) -> Run:
    """Open the run of an index. A plain Trainer folder's corpus and task stand in its index, if not given."""
    from headwater.attribution.build import EXAMPLES, find_run
    from headwater.attribution.kept import kept_corpus
    from headwater.runs import Corpus, Run, task_from_json

    source = find_run(folder) if place == folder else place
    if _is_recorded(source) or "data" in given or not _has_checkpoints(source):
        return open_run(source, _told(source, given))
    task = task_from_json(stores_in(folder)[0].manifest.task)
    return Run.open(source, corpus=kept_corpus(folder) or Corpus.read(folder / EXAMPLES), task=task)


def _told(source: Path, given: Given) -> Given:
    """Of a recorded run only its corpus, told anew, is worth an error; columns may be those of a file of queries."""
    return {} if _is_recorded(source) and "data" not in given else given


def _is_recorded(folder: Path) -> bool:
    return (folder / "headwater" / "run.json").is_file()


def _has_checkpoints(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.glob("checkpoint-*"))


def _is_index(folder: Path) -> bool:
    """Say whether this is an index, be it unfinished: opening that says what to do."""
    return _holds_tokens(folder) or bool(_row_folders(folder))


def _holds_tokens(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() or (folder / "segments").is_dir()


def _neither(folder: Path) -> RunError:
    return RunError(
        f"{folder}: neither a run (headwater/run.json or checkpoint-* folders) nor an index (manifest.json) is here."
    )


def read_queries(index: Index, given: Given, *, predicted: bool) -> tuple[Corpus, list[Any] | None]:
    """Read a file of queries, with its labels where there is a column of them and they are wanted.

    Columns that are not named are called as in the run's corpus. Raises DataError (row, column), UsageError.
    """
    from headwater.runs import Corpus

    base = index.run.corpus.columns
    columns = columns_of(given, base) or base
    corpus = Corpus.read(given["queries"], replace(columns, label=None, id=None))
    named = columns.label
    if predicted or named is None or (named not in corpus.table.column_names and "label_column" not in given):
        return corpus, None
    corpus = Corpus(corpus.table, replace(columns, id=None), corpus.name)
    labels = corpus.table.column(named).to_pylist()
    index.run.task.targets(labels, index.run.checkpoints[-1].config, where=corpus.name)  # before any work is done
    return corpus, labels
