"""A bank of retrainings: parts of a run's corpus, each trained on with several seeds, and what came out for queries.

    BANK/bank.json                           what it is of, the protocol, how many subsets, which seeds
    BANK/queries.parquet                     what is asked about
    BANK/subsets.safetensors                 masks [subsets, rows / 8], one bit a row
    BANK/edits.json                          under cut_words(): the words that each is trained without (`edits`)
    BANK/retrains/SUBSET-SEED.safetensors    one file a retraining (`outputs`), whole or not there
    BANK/times.jsonl                         seconds of each, which no other file holds: those are equal byte for byte

A subset and a seed give the same bytes in whatever order and in however many processes they are retrained. A bank can
grow (`grow`, `add`, `add_seeds`); what it is of cannot change.

Seeds change the order of the rows and dropout. Whether the weights that training begins from are the run's every time
(`first_weights="same"`) or new ones for each seed (`"fresh"`) decides how much noise there is, and what is asked: what
this very run would have become, or what such trainings become on average. Results of the two must not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from headwater.errors import RunError, StoreError, UsageError
from headwater.evaluation.bank.edits import NAME as EDITS
from headwater.evaluation.bank.edits import checked_edits
from headwater.evaluation.bank.fill import fill
from headwater.evaluation.bank.identity import difference, identity, machine_facts, query_facts, run_facts
from headwater.evaluation.bank.manifest import (
    NAME,
    QUERIES,
    RETRAINS,
    Manifest,
    has_bank,
    read_manifest,
    read_times,
    retrain_path,
)
from headwater.evaluation.bank.outputs import Outputs, read_outputs, to_bytes
from headwater.evaluation.bank.protocol import Protocol, half, named
from headwater.evaluation.bank.queries import check_queries, with_labels
from headwater.evaluation.bank.results import Results
from headwater.evaluation.bank.retrainer import Retrainer
from headwater.evaluation.bank.workers import Item
from headwater.evaluation.metrics.word_deletion import Edit
from headwater.runs.corpus import Corpus, Label
from headwater.runs.run import Run
from headwater.store.lock import writer_lock
from headwater.training.repeat import Arithmetic, why_not_fresh, why_not_quick, why_not_repeated

FirstWeights = Literal["same", "fresh"]
_ELSEWHERE = "Choose another folder."


class RetrainBank:
    """`RetrainBank.create` makes one, `fill` retrains, and the arrays are those of the subsets finished so far."""

    def __init__(self, folder: Path, manifest: Manifest, run: Run | None) -> None:
        self.folder, self.manifest, self.run = folder, manifest, run
        self.queries = Corpus.read(folder / QUERIES, name="queries")
        self._read: dict[Item, Outputs] = {}
        saved = query_facts(self.queries)
        if difference(manifest.identity, saved):
            raise StoreError(f"{folder / QUERIES}: not the queries that the bank was made with. Put the file back.")

    @classmethod
    def create(
        cls,
        run: Run,
        folder: str | Path,
        queries: Corpus,
        labels: Sequence[Label] | None = None,
        *,
        protocol: Protocol | None = None,
        subsets: int | Collection[Collection[int]] = 0,
        seeds: int | Sequence[int] = 2,
        first_weights: FirstWeights = "same",
        arithmetic: Arithmetic = "exact",
        threads: int = 1,
    ) -> RetrainBank:
        """Make a bank, or open the one that is there and let it grow; nothing is retrained yet.

        `labels` are what the queries are explained as, if not their own. `protocol` is `half()` if None. `subsets` is
        how many there shall be; under `remove()` it names them, each by the rows to leave out. `seeds` are numbers,
        or how many. `first_weights="fresh"` (TextCNN only) begins from new random weights with each seed.
        `arithmetic="quick"` (TextCNN only) rounds differently from `retrain`, and is faster.
        `threads` are those of one process: their number decides the last bits.

        Raises StoreError where the folder holds something else, and says what differs; RunError where the run cannot
        be trained again; DataError for queries without labels; UsageError.
        """
        folder, protocol = Path(folder), protocol or half()
        queries = queries if labels is None else with_labels(queries, labels)
        check_queries(run, queries)
        _check_how(run, first_weights, arithmetic, threads)
        how: dict[str, Any] = {"first_weights": first_weights, "arithmetic": arithmetic, "threads": threads}
        asked = identity(run, queries, protocol, **how)
        _check_folder(folder)
        with writer_lock(folder, "bank"):
            if not has_bank(folder):
                queries.save(folder / QUERIES)
                Manifest(asked, (), np.zeros((0, len(run.corpus)), dtype=np.bool_)).write(folder)
        bank = cls.open(folder)
        bank._refuse_unlike(asked)
        bank.run = run
        bank.add_seeds(range(seeds) if isinstance(seeds, int) else seeds)
        if isinstance(subsets, int):
            bank.grow(subsets)
        else:
            bank.add(subsets)
        return bank

    @classmethod
    def open(
        cls,
        folder: str | Path,
        run: Run | None = None,
        *,
        queries: Corpus | None = None,
        labels: Sequence[Label] | None = None,
        protocol: Protocol | None = None,
    ) -> RetrainBank:
        """Open a bank; without its run it can be read, but not filled. What is given must be what it was made with.

        Raises StoreError where there is no bank, or it is of something else: the message says what differs.
        """
        folder = Path(folder)
        bank = cls(folder, read_manifest(folder), run)
        if queries is not None:
            queries = queries if labels is None else with_labels(queries, labels)
        given = {} if run is None else run_facts(run)
        given |= {} if queries is None else query_facts(queries)
        given |= {} if protocol is None else {"protocol": protocol.to_json()}
        bank._refuse_unlike(given)
        return bank

    def grow(self, count: int) -> None:
        """Draw more subsets until there are `count`; those that are there stay. Raises UsageError, StoreError."""
        if count < 0:
            raise UsageError(f"subsets must not be negative, but are {count}.")
        rows = int(self.manifest.identity["rows"])

        def grown(now: Manifest) -> Manifest:
            drawn = [now.protocol.draw(rows, number) for number in range(len(now.masks), count)]
            return replace(now, masks=np.concatenate([now.masks, *(mask[None] for mask in drawn)]))

        self._change(grown)

    def add(self, removals: Collection[Collection[int]]) -> list[int]:
        """Name row sets to leave out; returns the number of each subset. One that is there already is not added again.

        Raises UsageError for rows that are not there, a set of all rows, or a bank whose subsets are drawn.
        """
        self._need_protocol("remove")
        masks = named(removals, int(self.manifest.identity["rows"]))
        numbers: list[int] = []

        def added(now: Manifest) -> Manifest:
            known = {mask.tobytes(): number for number, mask in reversed(list(enumerate(now.masks)))}
            fresh: list[Bool[np.ndarray, "1 rows"]] = []
            for mask in masks:
                if mask.tobytes() not in known:
                    known[mask.tobytes()] = len(now.masks) + len(fresh)
                    fresh.append(mask[None])
                numbers.append(known[mask.tobytes()])
            return replace(now, masks=np.concatenate([now.masks, *fresh]))

        self._change(added)
        return numbers

    def add_edits(self, edits: Collection[Edit]) -> list[int]:
        """Name words to cut out; returns the number of each edit. One that is there already is not added again.

        Raises UsageError for rows that are not there, or a bank whose protocol is not `cut_words()`.
        """
        self._need_protocol("words")
        rows = int(self.manifest.identity["rows"])
        wished, numbers = checked_edits(edits, rows), list[int]()

        def added(now: Manifest) -> Manifest:
            known = {edit: number for number, edit in enumerate(now.edits)}
            numbers.extend(known.setdefault(edit, len(known)) for edit in wished)
            return replace(now, edits=tuple(known), masks=np.ones((len(known), rows), dtype=np.bool_))

        self._change(added)
        return numbers

    def add_seeds(self, seeds: Sequence[int]) -> None:
        """Retrain every subset with these seeds too; those that are there stay. Raises UsageError, StoreError."""
        wrong = [seed for seed in seeds if not 0 <= seed < 2**32]
        if wrong:
            raise UsageError(f"a seed must be a whole number from 0 to 2^32 - 1, not {wrong[0]}.")
        self._change(lambda now: replace(now, seeds=tuple(dict.fromkeys([*now.seeds, *(int(s) for s in seeds)]))))

    def fill(
        self,
        *,
        until: float | None = None,
        processes: int | None = None,
        most: int | None = None,
        only: Collection[Item] | None = None,
        show: bool | None = None,
    ) -> int:
        """Retrain what is missing, subset by subset; returns how many retrainings were done.

        It stops at `until` (a time of time.monotonic()), never later: nothing is begun that will not be done by then,
        and what is not done is dropped. `processes` None is one a core (one alone on a GPU). `most`: so many
        retrainings and no more; `only`: none but these (subset, seed). A process that is killed loses what it has in
        hand; filling again goes on.

        Raises RunError without a run, StoreError where another process is filling, or for a bank made with another
        torch or on another kind of machine.
        """
        run = self._need_run()
        self._refuse_unlike(machine_facts(run))
        with writer_lock(self.folder, "bank"):
            self.manifest = read_manifest(self.folder)
            return fill(self, run, until=until, processes=processes, most=most, only=only, show=show)

    def missing(self) -> list[Item]:
        """Subset and seed of every retraining that is not there yet, in the order in which they are done."""
        items = [(number, seed) for number in range(len(self.manifest.masks)) for seed in self.seeds]
        there = {path.name for path in (self.folder / RETRAINS).glob("*.safetensors")}
        return [item for item in items if retrain_path(self.folder, item).name not in there]

    def results(self, *, seeds: Sequence[int] | None = None) -> Results:
        """The subsets that were retrained with all `seeds` (None: the bank's). Raises StoreError for damaged files."""
        chosen = self.seeds if seeds is None else tuple(seeds)
        unknown = [seed for seed in chosen if seed not in self.seeds]
        if unknown or not chosen:
            raise UsageError(f"{self.folder}: seeds {list(chosen)} asked for; the bank has {list(self.seeds)}.")
        missing = set(self.missing())
        count = len(self.manifest.masks)
        done = [n for n in range(count) if not any((n, seed) in missing for seed in chosen)]
        outputs = [[self.outputs((number, seed)) for seed in chosen] for number in done]
        times = read_times(self.folder)
        shape = (len(done), len(chosen), len(self.queries))

        def stacked(name: str, dtype: Any) -> Any:
            values = [[getattr(one, name) for one in row] for row in outputs]
            lacking = any(value is None for row in values for value in row)
            return None if lacking else np.array(values, dtype=dtype).reshape(shape)

        seconds = [[times.get((number, seed), np.nan) for seed in chosen] for number in done]
        return Results(
            protocol=f"{self.protocol}; {len(done):,} subsets, {len(chosen)} seed{'s' if len(chosen) > 1 else ''} each",
            subsets=np.array(done, dtype=np.int64),
            seeds=chosen,
            masks=self.manifest.masks[done],
            losses=stacked("losses", np.float32),
            probabilities=stacked("probabilities", np.float32),
            margins=stacked("margins", np.float32),
            seconds=np.array(seconds, dtype=np.float64).reshape(shape[:2]),
            label_logits=stacked("logits", np.float32),
            right=stacked("correct", np.bool_),
        )

    def outputs(self, item: Item) -> Outputs:
        """What one retrained model said. Raises StoreError where its file is missing or damaged."""
        if item not in self._read:
            self._read[item] = read_outputs(retrain_path(self.folder, item), self.manifest.facts(item))
        return self._read[item]

    @property
    def protocol(self) -> str:
        """How the subsets were made, and what each retraining begins from, in words."""
        return f"{self.manifest.protocol}; {self.manifest.identity['first_weights']} first weights"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every subset is retrained with."""
        return self.manifest.seeds

    @property
    def subsets(self) -> Int64[np.ndarray, " subsets"]:
        """Numbers of the subsets that are finished; the arrays below are of these."""
        return self.results().subsets

    @property
    def masks(self) -> Bool[np.ndarray, "subsets rows"]:
        """True for the rows that were trained on."""
        return self.results().masks

    @property
    def losses(self) -> Float32[np.ndarray, "subsets seeds queries"]:
        """Cross entropy of each query's label, in nats."""
        return self.results().losses

    @property
    def margins(self) -> Float32[np.ndarray, "subsets seeds queries"]:
        """Log-odds of each query's label."""
        return self.results().margins

    def __repr__(self) -> str:
        count, left = len(self.manifest.masks) * len(self.seeds), len(self.missing())
        name = self.manifest.protocol.name
        return f"RetrainBank({str(self.folder)!r}, {name}, {count - left:,} of {count:,} retrainings)"

    def retrainer(self) -> Retrainer:
        """What retrains for this bank."""
        told = self.manifest.identity
        how = {"arithmetic": told["arithmetic"], "threads": told["threads"]}
        return Retrainer(self._need_run(), self.queries, fresh=told["first_weights"] == "fresh", **how)

    def retrained(
        self, retrainer: Retrainer, item: Item, check: Callable[[], None] = lambda: None
    ) -> tuple[bytes, float]:
        """Do one retraining: what its file holds, and seconds. Nothing is written."""
        rows = np.flatnonzero(self.manifest.masks[item[0]]).tolist()
        edit = self.manifest.edits[item[0]] if self.manifest.edits else ()
        outputs, seconds = retrainer(rows, item[1], edit=edit, check=check)
        return to_bytes(outputs, self.manifest.facts(item)), seconds

    def _change(self, change: Callable[[Manifest], Manifest]) -> None:
        """Write the manifest anew, unless it stays as it is."""
        with writer_lock(self.folder, "bank"):
            now = read_manifest(self.folder)
            self.manifest = change(now)
            if len(self.manifest.masks) != len(now.masks) or self.manifest.seeds != now.seeds:
                self.manifest.write(self.folder)

    def _need_protocol(self, name: str) -> None:
        if self.manifest.protocol.name != name:
            how = "its subsets are drawn." if self.manifest.protocol.drawn else "it takes no such subsets."
            raise UsageError(f"{self.folder}: this bank's protocol is {self.protocol}: {how}")

    def _need_run(self) -> Run:
        if self.run is None:
            raise RunError(f"{self.folder}: opened without its run. Open it as RetrainBank.open(folder, run).")
        return self.run

    def _refuse_unlike(self, asked: dict[str, Any]) -> None:
        what = difference(self.manifest.identity, asked)
        if what:
            raise StoreError(f"{self.folder}: this bank is of something else: {what}. {_ELSEWHERE}")


def _check_folder(folder: Path) -> None:
    """Refuse to make a bank among other things."""
    ours = {NAME, QUERIES, RETRAINS, EDITS, "subsets.safetensors", "times.jsonl", ".lock"}
    if folder.exists() and not has_bank(folder):
        others = [] if not folder.is_dir() else [path.name for path in folder.iterdir() if path.name not in ours]
        if not folder.is_dir() or [name for name in others if not name.endswith(".part")]:
            raise StoreError(f"{folder}: is not empty, and no bank. {_ELSEWHERE}")


def _check_how(run: Run, first_weights: str, arithmetic: str, threads: int) -> None:
    if first_weights not in ("same", "fresh"):
        raise UsageError(f"first_weights {first_weights!r} is not one of same, fresh.")
    if arithmetic not in ("exact", "quick"):
        raise UsageError(f"arithmetic {arithmetic!r} is not one of exact, quick.")
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}.")
    if first_weights == "fresh" and (why := why_not_fresh(run) or why_not_repeated(run)):
        raise UsageError(f"{run.folder}: {why} Take first_weights='same'.")
    if arithmetic == "quick" and (why := why_not_quick(run) or why_not_repeated(run)):
        raise UsageError(f"{run.folder}: {why} Take arithmetic='exact'.")
