"""The corpus of an index: the run's own, or another one that the index was given and keeps.

An index that was given a corpus holds it in its table of examples, and goes by that table from then on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from headwater.attribution.build import EXAMPLES, SOURCE
from headwater.errors import DataError, HeadwaterError, StoreError
from headwater.files import read_json
from headwater.runs import Corpus, Run
from headwater.store import Manifest
from headwater.store.grow import other_names
from headwater.store.manifest import NAME as MANIFEST
from headwater.store.manifest import read_manifest
from headwater.store.steady import read_steadily


def keeps_corpus(folder: Path) -> bool:
    """Say whether an index has a corpus of its own; one that has grown always has."""
    if says_kept(folder):
        return True
    try:
        return (folder / MANIFEST).exists() and bool(read_manifest(folder).living)
    except StoreError:
        return False


def says_kept(folder: Path) -> bool:
    """Say whether it is written down that an index has a corpus of its own (see `build.write_source`)."""
    try:
        return bool(read_json(folder / SOURCE).get("corpus") == "kept")
    except (HeadwaterError, AttributeError, OSError):
        return False  # whoever needs the run says what is wrong with it


def kept_corpus(folder: Path) -> Corpus | None:
    """Return the corpus of an index that keeps one of its own; None where it has none, or not yet."""

    def read() -> Corpus | None:
        if not keeps_corpus(folder):
            return None
        manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
        path = examples_path(folder, manifest)
        return Corpus.read(path) if path.exists() or manifest is not None else None

    return read_steadily(folder, read)


def examples_path(folder: Path, manifest: Manifest | None = None) -> Path:
    """Return where the table of examples lies: in a folder of its own once the index has grown."""
    names = [] if manifest is None else other_names(manifest)
    found = [name for name in names if PurePosixPath(name).name == EXAMPLES]
    return folder / (found[0] if found else EXAMPLES)


def read_like(corpus: Any, run: Run) -> Corpus:
    """Make a corpus of what was given, its columns called as in the run's. Raises DataError."""
    return corpus if isinstance(corpus, Corpus) else Corpus.read(corpus, run.corpus.columns)


def over(run: Run, corpus: Corpus) -> Run:
    """Return the run with another corpus in the place of its own, as an index of its checkpoints sees it.

    Raises DataError for labels that the model does not know, or texts where the task is of pairs.
    """
    pairs, wanted = corpus.columns.text_pair is not None, run.corpus.columns.text_pair is not None
    if pairs != wanted:
        has, trained = ("pairs", "single texts") if pairs else ("single texts", "pairs")
        raise DataError(f"{corpus.name}: its rows are {has}, those of the run are {trained}.")
    made = replace(run, corpus=corpus, warnings=[*run.warnings, *_untrained(run.corpus, corpus)])
    made.targets  # noqa: B018  labels that the model does not know are found now, not in the middle of a build
    return made


def _untrained(trained: Corpus, corpus: Corpus) -> list[str]:
    """Say how many rows the run has not seen."""
    new = (Counter(corpus.hashes) - Counter(trained.hashes)).total()
    if not new:
        return []
    return [
        f"{new:,} of the {len(corpus):,} rows were added or changed after the training: "
        "their scores say what training on them would push, not what it did."
    ]
