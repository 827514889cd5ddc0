"""A whole index, grown, with layer gradients or representations: a flipped byte in any file of it is found."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import builders
import headwater as hw
from cli.conftest import everything_in
from headwater.attribution.build import SOURCE
from headwater.cli.places import stores_in
from headwater.errors import HeadwaterError


def _named(folder: Path) -> set[str]:
    """The files that the manifests of an index speak of, and these themselves."""
    found = set()
    for store in stores_in(folder):
        place = store.folder.relative_to(folder)
        found |= {str(place / name) for name in [*store.manifest.files, "manifest.json"]}
    return found


def _check_flips(folder: Path, run: hw.Run) -> None:
    drawn = random.Random(0)
    names = sorted(_named(folder))
    for name in names:
        path, whole = folder / name, (folder / name).read_bytes()
        for at in {0, len(whole) // 2, drawn.randrange(len(whole))}:
            damaged = bytearray(whole)
            damaged[at] ^= 0x10 if chr(whole[at]).isspace() else drawn.randrange(1, 256)
            path.write_bytes(damaged)
            with pytest.raises(HeadwaterError) as caught:
                hw.Index.open(folder, run=run).verify()
            assert str(path) in str(caught.value), (name, at)
        path.write_bytes(whole)
    hw.Index.open(folder, run=run).verify()


def test_every_file_of_an_index_that_grew_is_verified(fresh_run: Callable[..., hw.Run]) -> None:
    run = fresh_run()
    folder = run.folder / "index"
    hw.Index.build(run)
    hw.Index.build(run, corpus=hw.Corpus.read(builders.rows(30)[3:]))
    assert set(everything_in(folder)) - _named(folder) == {".lock", SOURCE}
    _check_flips(folder, run)


def test_every_file_of_layer_gradients_and_representations_is_verified(fresh_run: Callable[..., hw.Run]) -> None:
    run = fresh_run()
    folder = run.folder / "index"
    for method in ("tracin-we", "tracin-last", "representation-cosine"):
        hw.Index.build(run, method=method)
    locks = {name for name in everything_in(folder) if Path(name).name == ".lock"}
    assert set(everything_in(folder)) - _named(folder) - locks == {SOURCE}
    _check_flips(folder, run)
