"""The scores of each method, and what they cost: index, seconds, bytes. What is finished is kept on disk.

DIR/index/READS/          what one or several methods read, built once
DIR/index/READS.json      seconds that building took
DIR/scores/NAME.npy       float32 [queries, rows]
DIR/scores/NAME.json      of which run, queries and options, and seconds
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from headwater.attribution.build import stored
from headwater.attribution.index import Index
from headwater.attribution.layer_sets import LayerSpec, layer_spec
from headwater.errors import HeadwaterError
from headwater.evaluation.candidates import Candidate
from headwater.files import canonical_json, digest, read_json, write_json
from headwater.methods import Method, get_method
from headwater.runs import Corpus, Label, Run

_PROBED = (8, 40)  # rows of the two small indexes that tell what a row costs
_FORMAT = 1


@dataclass(frozen=True)
class Cost:
    """What a row of the table costs; None where it is not known (scores that another tool made)."""

    method: str
    index_seconds: float | None
    """Of what it reads; methods that read the same share it, and each is told the whole."""
    score_seconds: float | None
    """For all queries, what is worked out for them first included."""
    bytes: int | None
    """Of what it reads, on disk."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """A candidate's scores and what they cost."""

    candidate: Candidate
    scores: Float32[np.ndarray, "queries rows"]
    cost: Cost

    @cached_property
    def key(self) -> str:
        """Digest of the scores."""
        return digest([str(self.scores.shape), np.ascontiguousarray(self.scores).tobytes()])


@dataclass(frozen=True)
class Asked:
    """A run and what it is asked: the same for all methods."""

    run: Run
    queries: Corpus
    labels: Sequence[Label] | None
    folder: Path

    @cached_property
    def key(self) -> str:
        """Digest of all that scores depend on, beside the method."""
        run = self.run
        facts = {
            "corpus": run.corpus.fingerprint,
            "task": run.task.to_json(),
            "checkpoints": [asdict(stored(checkpoint)) for checkpoint in run.checkpoints],
            "queries": self.queries.fingerprint,
        }
        return digest([canonical_json(facts)])

    def index_folder(self, candidate: Candidate) -> Path | None:
        """Where what it reads is kept; None for a method that reads texts alone."""
        method = get_method(str(candidate.method))
        if method.need == "texts":
            return None
        name: str = method.need
        if method.need == "layers":
            name = _spec(self.run, method, candidate).folder.replace("/", "-")
        return self.folder / "index" / name

    def known(self, candidate: Candidate) -> Scored | None:
        """The scores that are on disk already, if they are of the same run, queries and options."""
        if candidate.scores is not None:
            return Scored(candidate, candidate.scores, Cost(candidate.label, None, None, None))
        path = self._path(candidate)
        try:
            told = read_json(path.with_suffix(".json"))
            if told["key"] != self._key_of(candidate):
                return None
            scores = np.load(path, allow_pickle=False)
            cost = Cost(candidate.label, *(told[name] for name in ("index_seconds", "score_seconds", "bytes")))
        except (HeadwaterError, OSError, ValueError, EOFError, KeyError, TypeError):
            return None
        fits = scores.shape == (len(self.queries), len(self.run.corpus)) and scores.dtype == np.float32
        found = Scored(candidate, scores, cost)
        return found if fits and told.get("scores") == found.key else None

    def score(self, candidate: Candidate, *, show: bool | None = None) -> Scored:
        """Index what the method reads, and score; or take what is there. Raises what Index.build and scores raise."""
        known = self.known(candidate)
        if known is not None:
            return known
        index, seconds = self._indexed(candidate, show)
        started = time.monotonic()
        path = self._path(candidate)
        index.scores(
            self.queries, _list(self.labels), method=str(candidate.method), out=path, show=show, **candidate.options
        )
        took = time.monotonic() - started
        place = self.index_folder(candidate)
        cost = Cost(candidate.label, seconds, took, index.bytes if place is not None else 0)
        found = Scored(candidate, np.load(path), cost)
        told = {"key": self._key_of(candidate), "scores": found.key, **cost.to_dict()}
        write_json(path.with_suffix(".json"), told)
        return found

    def index(self, candidate: Candidate, *, show: bool | None = None) -> Index:
        """What a candidate reads; built where it is not there. Raises what Index.build raises."""
        return self._indexed(candidate, show)[0]

    def _indexed(self, candidate: Candidate, show: bool | None) -> tuple[Index, float]:
        """The index, and the seconds that building it took: those of its last building, if an earlier one was cut."""
        folder = self.index_folder(candidate)
        if folder is None:
            return Index.of(self.run), 0.0
        times = folder.with_name(folder.name + ".json")
        started = time.monotonic()
        index = _build(self.run, folder, candidate, show)
        took = time.monotonic() - started
        key = digest([self.key, folder.name])
        known = read_json(times) if times.is_file() else {}
        if known.get("key") != key:
            known = {"key": key, "seconds": took}
            write_json(times, known)
        return index, float(known["seconds"])

    def _path(self, candidate: Candidate) -> Path:
        return self.folder / "scores" / f"{candidate.slug}.npy"

    def _key_of(self, candidate: Candidate) -> str:
        return digest([str(_FORMAT), self.key, candidate.identity])


def scoring_seconds(asked: Asked, candidates: Sequence[Candidate]) -> dict[str, float]:
    """What indexing and scoring will take, by label, from two small indexes of a few rows each.

    What is kept already costs 0. Of methods that read the same, the first bears the index.
    """
    run = asked.run
    found: dict[str, float] = {}
    built: dict[Path, float] = {}
    for candidate in candidates:
        folder = None if candidate.method is None else asked.index_folder(candidate)
        if asked.known(candidate) is not None:
            found[candidate.label] = 0.0
        elif len(run.corpus) <= 4 * _PROBED[1] or folder is None:
            found[candidate.label] = 0.0 if folder is None else _tiny(run)
        elif folder in built or folder.with_name(folder.name + ".json").is_file():
            found[candidate.label] = 0.05 * built.get(folder, 0.0)
        else:
            built[folder] = found[candidate.label] = _probe(asked, candidate)
    return found


def _probe(asked: Asked, candidate: Candidate) -> float:
    corpus = asked.run.corpus
    seconds = []
    for count in _PROBED:
        rows = [place * len(corpus) // count for place in range(count)]
        some = replace(asked.run, corpus=corpus.take(rows))
        with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            started = time.monotonic()
            _build(some, Path(folder), candidate, False)
            seconds.append(time.monotonic() - started)
    small, large = _PROBED
    a_row = max(seconds[1] - seconds[0], 0.0) / (large - small)
    return seconds[1] + a_row * (len(corpus) - large)


def _tiny(run: Run) -> float:
    """A few rows: loading the checkpoints is most of it."""
    return 0.1 * len(run.checkpoints)


def _spec(run: Run, method: Method, candidate: Candidate) -> LayerSpec:
    projector = candidate.projector
    return layer_spec(
        run, candidate.layers, default=method.layers, tied="separate", projector=projector, scale=method.scale
    )


def _build(run: Run, folder: Path, candidate: Candidate, show: bool | None) -> Index:
    method = get_method(str(candidate.method))
    asked = {"layers": candidate.layers, "projector": candidate.projector} if method.need == "layers" else {}
    return Index.build(run, folder, method=method.name, show=show, **asked)  # type: ignore[arg-type]


def _list(labels: Sequence[Label] | None) -> list[Any] | None:
    return None if labels is None else list(labels)
