"""`hw.Index`: build it once, then ask in texts and get training rows and words."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from headwater.attribution.aggregate import Aggregation, Columns, Over, aggregate_question
from headwater.attribution.answer import answer, with_hubs
from headwater.attribution.answerable import answerable, options_of
from headwater.attribution.attributions import Attribution, Attributions
from headwater.attribution.building import build_index
from headwater.attribution.cluster import Finder, held
from headwater.attribution.completions import NEW_TOKENS, read_prompts, settle_completions
from headwater.attribution.elsewhere import Elsewhere, fetched
from headwater.attribution.facts import answer_facts
from headwater.attribution.grow import compact_tokens
from headwater.attribution.living import prepared
from headwater.attribution.matrix import score_matrix
from headwater.attribution.members import Member, check_together, default_device, open_member, state_of_index
from headwater.attribution.queries import Labels, Queries, query_blocks, read_queries, settle
from headwater.attribution.question import AskedQuestion
from headwater.attribution.self_influence import self_influence
from headwater.attribution.spans import Spans, spans_of
from headwater.attribution.top import Search, find_rows, score_all
from headwater.attribution.where import Where
from headwater.engines.work import EngineName
from headwater.errors import UsageError
from headwater.gradients.layers import Projector, Tied
from headwater.methods import Method, Scorer, get_method
from headwater.progress import progress_bar
from headwater.runs import Corpus, Run, text_task
from headwater.store import PostingDtype, Store, StoredCheckpoint
from headwater.store.remote import place_of


class Index:
    """What a run's training rows pushed, searchable. Make one with `Index.build`, `Index.open` or `Index.of`."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self.corpus = self._members[0].run.corpus
        self._finder: Finder | None = None

    @classmethod
    def build(
        cls,
        run: Run,
        out: str | Path | None = None,
        *,
        corpus: Any = None,
        method: str = "tracin-we",
        layers: str | None = None,
        tied: Tied = "separate",
        projector: Projector | None = None,
        checkpoints: str | Sequence[str | int] = "all",
        dtype: PostingDtype = "float16",
        max_words: int | None = None,
        energy: float | None = None,
        device: str | None = None,
        engine: EngineName = "local",
        address: str | None = None,
        show: bool | None = None,
    ) -> Index:
        """Index every training row of `run` for a method, in RUN/index or `out`. Resumes what was interrupted.

        What other methods need may stand there already, and stays. `dtype` is how gradients are stored (float16 with
        powers of two: error of a score about 2e-4). Token gradients (TracIn-WE): `max_words` keeps only so many words
        a row and checkpoint; of each 4,096 rows and checkpoint `energy` (0.999) keeps only the strongest gradients,
        which hold that share of all squared norms; "int8" keeps each number to 1/127 of its vector's largest, "int4"
        to one of 16 steps. Layer gradients: `layers` (patterns; None: those of the method), `tied` and `projector` say
        which and how; one set serves every method that its layers suit. Memory does not grow with the corpus.

        `corpus` (a Corpus, or what `Corpus.read` takes): index this one in the place of the run's own. Of an index that
        is there already only the rows that are new or changed are computed; the index then goes by this corpus, until
        another is given: `index.corpus`, and one column of scores for each of its rows, in its order.

        `out` may be a URL (s3://bucket/index), which is mirrored in a folder of this machine. With the engine "ray" the
        nodes of the Ray cluster at `address` (None: this machine) write token gradients, the same bytes; they must see
        the run's folder, and `out` unless it is a URL, at the same paths.
        Raises RunError, ModelError, StoreError, UsageError; a mistake leaves nothing half-written.
        """
        folder, remote = place_of(run.folder / "index" if out is None else out)
        elsewhere = Elsewhere.of(engine, address, remote)
        device = device or default_device()
        given: dict[str, Any] = {"dtype": dtype, "max_words": max_words, "energy": energy}
        given |= {"layers": layers, "tied": tied, "projector": projector}
        given |= {"checkpoints": run.select(checkpoints), "device": device, "show": show}
        wanted = get_method(method)
        with nullcontext() if elsewhere is None else elsewhere.mirrored(run, wanted.need):
            build_index(run, folder, wanted, corpus, elsewhere=elsewhere, **given)
        return cls.open(folder if remote is None else remote.url, run=run, device=device)

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        run: Run | Sequence[Run] | None = None,
        device: str | None = None,
    ) -> Index:
        """Open an index, or several of runs of the same corpus, whose scores are then averaged.

        Averaging over seeds raises quality more than any option. An index at a URL (s3://bucket/index) is fetched into
        a folder of this machine, and compared with its checksums, unless it is there already. Raises StoreError when an
        index is missing, unfinished, damaged, or not of this run.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise UsageError("no index given.")
        runs = [None] * len(paths) if run is None else [run] if isinstance(run, Run) else list(run)
        if len(runs) != len(paths):
            raise UsageError(f"{len(paths)} indexes but {len(runs)} runs: give one run an index.")
        members = [
            open_member(fetched(place), given, device or default_device())
            for place, given in zip(paths, runs, strict=True)
        ]
        check_together(members)
        return cls(members)

    @classmethod
    def of(cls, run: Run | Sequence[Run], *, device: str | None = None) -> Index:
        """Open what is indexed of a run in RUN/index, be it nothing: methods that read texts alone need no more."""
        runs = [run] if isinstance(run, Run) else list(run)
        members = [open_member(each.folder / "index", each, device or default_device(), nothing=True) for each in runs]
        check_together(members)
        return cls(members)

    def is_current(self) -> bool:
        """Say whether all that is indexed is still as it was when it was opened; a few looks at the disk."""
        return all(member.state == state_of_index(member.folder) for member in self._members)

    def reopened(self) -> Index:
        """Open the index anew, as it is on disk by now; models that are loaded stay so. Raises StoreError.

        Whoever has this one goes on as before. One at a URL is not fetched again.
        """
        members = [
            open_member(each.folder, each.own, each.models.device, nothing=not each.stores, models=each.models)
            for each in self._members
        ]
        check_together(members)
        return Index(members)

    @property
    def members(self) -> tuple[Member, ...]:
        """Return the runs whose scores are averaged, each with what is indexed of it."""
        return self._members

    @property
    def folder(self) -> Path:
        """Return the folder of the (first) index."""
        return self._members[0].folder

    @property
    def run(self) -> Run:
        """Return the (first) run."""
        return self._members[0].run

    @property
    def checkpoints(self) -> tuple[StoredCheckpoint, ...]:
        """Return the indexed checkpoints of the (first) run, with their weights."""
        return self._members[0].stored_checkpoints

    @property
    def bytes(self) -> int:
        """Return the size on disk."""
        return sum(store.bytes for member in self._members for store in member.stores)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Return the methods that it can answer by as it stands."""
        return answerable(self._members)

    def __len__(self) -> int:
        return len(self.corpus)

    def __repr__(self) -> str:
        names = ", ".join(checkpoint.name for checkpoint in self.checkpoints)
        runs = "" if len(self._members) == 1 else f", mean of {len(self._members)} runs"
        return f"Index({str(self.folder)!r}, {len(self):,} rows, {names}, {self.bytes / 1e6:,.1f} MB{runs})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def verify(self) -> None:
        """Read every byte and compare it with the checksums. Raises StoreError naming each damaged file."""
        for member in self._members:
            for store in member.stores:
                store.verify()

    @property
    def dead(self) -> int:
        """Return the number of rows that are stored, but no longer of the corpus: changed or removed."""
        found = [member.tokens for member in self._members if member.tokens is not None]
        return sum(store.manifest.rows - len(store.living) for store in found if store.living is not None)

    def compact(self) -> Index:
        """Rewrite what has grown into full ranges of rows without dead ones; return the index, opened again.

        The files are then those of a fresh build of the same corpus, but for the rounding of gradients that were
        computed in other batches. Whoever has the index open, this one included, goes on as before. Raises StoreError.
        """
        for member in self._members:
            if member.tokens is not None:
                compact_tokens(member.folder)
        runs, device = [member.own for member in self._members], self._members[0].models.device
        return Index.open([member.folder for member in self._members], run=runs, device=device)

    def scores(
        self,
        queries: Queries,
        labels: Labels = None,
        *,
        method: str = "tracin-we",
        out: str | Path | None = None,
        max_new_tokens: int = NEW_TOKENS,
        spans: Spans = None,
        show: bool | None = None,
        **options: Any,
    ) -> Float32[np.ndarray, "queries rows"]:
        """Score every query with every training row: float32 [queries, N].

        `labels` None: the labels that the last checkpoint predicts (see `query` for language models and for `spans`).
        `out` names a .npy file to stream into; what is returned is then a map of it. Options are those of the method
        (see `headwater methods`).
        """
        asked, labels = self._read(queries, labels)
        shape = (len(asked), len(self))
        with (
            score_matrix(shape, out) as matrix,
            progress_bar("scores", len(asked), unit="queries", show=show) as advance,
        ):
            for start, block, block_labels in query_blocks(asked, labels, get_method(method), len(self)):
                these = spans_of(spans, len(asked), start, len(block))
                question, scorer = self._ask(block, block_labels, method, options, max_new_tokens, spans=these)
                matrix[start : start + len(block)] = score_all(question, scorer)
                advance(len(block))
        return matrix if out is None else np.load(out, mmap_mode="r")

    def query(
        self,
        queries: Queries,
        labels: Labels = None,
        k: int = 10,
        where: Where | Mapping[str, Any] | None = None,
        *,
        method: str = "tracin-we",
        search: Search = "auto",
        max_new_tokens: int = NEW_TOKENS,
        spans: Spans = None,
        show: bool | None = None,
        **options: Any,
    ) -> Attributions:
        """Explain each query: its k strongest proponents and opponents, with word pairs.

        `labels` None explains the label that the last checkpoint predicts, at all checkpoints. `where` filters the
        rows that are shown: label, columns of the corpus, `exclude` (ids), `collapse` (equal rows once).

        `search` "pruned" reads few of the stored vectors and finds the same rows as "full", which scores them all
        (TracIn-WE; it knows no `push`, and under a filter no percentiles); "auto" takes what reads fewer bytes.

        Of a language model a query is a prompt, and its label a completion: `queries` may be [(prompt, completion)]
        too, or conversations. Without labels the model's own greedy continuation, at most `max_new_tokens` tokens,
        is explained; an empty label explains a whole text, as plain texts are trained on. `spans` names of each query
        the characters (from, to) of its completion that are explained, given all before them (None: all).
        """
        if k < 1:
            raise UsageError(f"k must be at least 1; it is {k}.")
        asked, labels = self._read(queries, labels)
        chosen = Where.of(where)
        allowed = chosen.mask(self.corpus)
        found: list[Attribution] = []
        with progress_bar("explain", len(asked), unit="queries", show=show) as advance:
            for start, block, block_labels in query_blocks(asked, labels, get_method(method), len(self)):
                these = spans_of(spans, len(asked), start, len(block))
                question, scorer = self._ask(block, block_labels, method, options, max_new_tokens, True, these)
                find = partial(find_rows, search=search) if self._finder is None else self._finder
                for number, rows in enumerate(find(question, scorer, k, chosen, allowed)):
                    found.append(answer(question, scorer, number, rows, k))
                    advance(1)
        made = options_of(self._members, get_method(method), options)
        items = with_hubs(found)
        return Attributions(items, answer_facts(self._members, method, made, question, k, items))

    @contextmanager
    def on_ray(self, address: str | None = None, *, holders: int = 2) -> Iterator[Index]:
        """Give an index whose `query` is answered by so many actors of a Ray cluster, each holding a range of rows.

        TracIn-WE, without collapse; the rows, scores and words are the same, `push` is not known, and each actor takes
        the way that reads fewer bytes, whatever `search` says. Every node must see the index's folder. `address` None
        starts Ray on this machine. Raises UsageError, StoreError.
        """
        stores = [member.tokens for member in self._members if member.tokens is not None]
        if holders < 1 or len(stores) < len(self._members):
            raise UsageError("a cluster needs at least one holder, and token gradients to hold.")
        with held(stores, address, holders) as finder:
            spread = Index(self._members)
            spread._finder = finder
            yield spread

    def aggregate(
        self,
        queries: Queries,
        labels: Labels = None,
        *,
        how: Aggregation = "mean",
        share: float = 0.2,
        over: Sequence[Over] = (),
        method: str = "tracin-we",
        max_new_tokens: int = NEW_TOKENS,
        show: bool | None = None,
        **options: Any,
    ) -> Float64[np.ndarray, "rows"]:
        """Score every training row with all queries together: float64 [N]; the most harmful rows stand lowest.

        `over` takes "layers" and "checkpoints" apart too: each of them gives a column of scores a query, and `how`
        puts the columns together (see `aggregate`): their mean, the mean rank of the row in them, or the votes of the
        columns against the lowest `share` of their rows. Source: Vitel & Chhabra 2026 (arXiv 2511.04715).
        """
        asked, labels = self._read(queries, labels)
        columns = Columns(how, share, len(self))
        with progress_bar("aggregate", len(asked), unit="queries", show=show) as advance:
            for _, block, block_labels in query_blocks(asked, labels, get_method(method), len(self)):
                question = self._question(block, block_labels, get_method(method), max_new_tokens)
                made = options_of(self._members, get_method(method), options)
                aggregate_question(question, made, over, columns)
                advance(len(block))
        return columns.result()

    @property
    def token_store(self) -> Store | None:
        """Return the token gradients of the (first) run; None where they are not indexed."""
        return self._members[0].tokens

    def self_influence(self) -> Float64[np.ndarray, "rows"]:
        """How much training on each row moves the row itself (TracIn): float64 [N]. Raises StoreError: no gradients."""
        return self_influence(self._members)

    @property
    def _pairs(self) -> bool:
        return self.corpus.columns.text_pair is not None

    def _read(self, queries: Queries, labels: Labels) -> tuple[Corpus, Labels]:
        """Read queries, and the labels that stand among them. One text may come with one label."""
        if isinstance(queries, str) and isinstance(labels, str):
            labels = [labels]
        if text_task(self.run.task) is not None:
            return read_prompts(queries, labels)
        asked = read_queries(queries, pairs=self._pairs)
        if labels is not None:  # looked up now, while rows are counted from the first query and not from a block's
            self.run.task.targets(labels, self.run.checkpoints[-1].config, where=asked.name)
        return asked, labels

    def _ask(
        self,
        queries: Corpus,
        labels: Labels,
        method: str,
        options: Mapping[str, Any],
        max_new_tokens: int,
        judge: bool = False,
        spans: Spans = None,
    ) -> tuple[AskedQuestion, Scorer]:
        """Make a block of queries ready to be scored; `judge` predicts them too, for answers that show it."""
        chosen = get_method(method)
        made = options_of(self._members, chosen, options)
        question = self._question(queries, labels, chosen, max_new_tokens, judge, spans)
        return question, prepared(question, made)

    def _question(
        self,
        queries: Corpus,
        labels: Labels,
        method: Method,
        max_new_tokens: int,
        judge: bool = False,
        spans: Spans = None,
    ) -> AskedQuestion:
        runs, models = [member.run for member in self._members], [member.models for member in self._members]
        classes = text_task(self.run.task) is None
        if method.classes and not classes:
            raise UsageError(f"{method.name} needs classes; the task of {self.run.folder} is {self.run.task.kind}.")
        if spans is not None and classes:
            raise UsageError("spans are parts of completions, which only language models have.")
        asked, targets = (
            settle(runs, models, queries, labels, judge=judge)
            if classes
            else settle_completions(runs, models, queries, labels, max_new_tokens, judge=judge, spans=spans)
        )
        return AskedQuestion(self._members, asked, targets, method)
