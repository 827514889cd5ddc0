"""`hw.Index`: build it once, then ask in texts and get training rows and words."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from headwater.attribution.attributions import Attribution, Attributions, Influence
from headwater.attribution.build import build_index
from headwater.attribution.completions import NEW_TOKENS, read_prompts, settle_completions
from headwater.attribution.explain import Sides, Texts, TokenNames, both_sides, ends, hubs, word_pairs
from headwater.attribution.matrix import score_matrix
from headwater.attribution.members import Member, check_together, default_device, open_member
from headwater.attribution.queries import Labels, Queries, Query, query_gradients, read_queries, settle
from headwater.attribution.where import Where
from headwater.errors import UsageError
from headwater.gradients import input_embeddings
from headwater.methods import Contributions, Method, Part, get_method
from headwater.progress import progress_bar
from headwater.runs import Corpus, Run, text_task
from headwater.store import Dtype, StoredCheckpoint, threads_for

_QUERY_BLOCK = 128  # queries whose gradients are held in memory at a time


@dataclass(frozen=True)
class _Question:
    """A block of queries with everything needed to score and explain them."""

    queries: Sequence[Query]
    matched: Any
    method: Method


class Index:
    """Token gradients of a run's training rows, searchable. Make one with `Index.build` or `Index.open`."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self.corpus = self._members[0].run.corpus

    @classmethod
    def build(
        cls,
        run: Run,
        out: str | Path | None = None,
        *,
        checkpoints: str | Sequence[str | int] = "all",
        dtype: Dtype = "float16",
        max_words: int | None = None,
        device: str | None = None,
        show: bool | None = None,
    ) -> Index:
        """Index every training row of `run`, in RUN/index or `out`. Resumes a build that was interrupted.

        `dtype` is how gradients are stored (float16 with a power of two a vector: error of a score about 2e-4);
        `max_words` keeps only so many words a row and checkpoint. Memory does not grow with the corpus. Raises
        RunError, ModelError, StoreError; a mistake leaves nothing half-written.
        """
        folder = Path(out) if out is not None else run.folder / "index"
        chosen = run.select(checkpoints)
        build_index(
            run,
            folder,
            checkpoints=chosen,
            dtype=dtype,
            max_words=max_words,
            device=device or default_device(),
            show=show,
        )
        return cls.open(folder, run=run, device=device)

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        run: Run | Sequence[Run] | None = None,
        device: str | None = None,
    ) -> Index:
        """Open an index, or several of runs of the same corpus, whose scores are then averaged.

        Averaging over seeds raises quality more than any option. Raises StoreError when an index is missing,
        unfinished, damaged, or not of this run.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise UsageError("no index given.")
        runs = [None] * len(paths) if run is None else [run] if isinstance(run, Run) else list(run)
        if len(runs) != len(paths):
            raise UsageError(f"{len(paths)} indexes but {len(runs)} runs: give one run an index.")
        members = [
            open_member(Path(place), given, device or default_device())
            for place, given in zip(paths, runs, strict=True)
        ]
        check_together(members)
        return cls(members)

    @property
    def folder(self) -> Path:
        """Return the folder of the (first) index."""
        return self._members[0].store.folder

    @property
    def run(self) -> Run:
        """Return the (first) run."""
        return self._members[0].run

    @property
    def checkpoints(self) -> tuple[StoredCheckpoint, ...]:
        """Return the indexed checkpoints of the (first) run, with their weights."""
        return self._members[0].store.manifest.checkpoints

    @property
    def bytes(self) -> int:
        """Return the size on disk."""
        return sum(member.store.bytes for member in self._members)

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
            member.store.verify()

    def scores(
        self,
        queries: Queries,
        labels: Labels = None,
        *,
        method: str = "tracin-we",
        out: str | Path | None = None,
        max_new_tokens: int = NEW_TOKENS,
        show: bool | None = None,
        **options: Any,
    ) -> Float32[np.ndarray, "queries rows"]:
        """Score every query with every training row: float32 [queries, N].

        `labels` None: the labels that the last checkpoint predicts (see `query` for language models). `out` names a
        .npy file to stream into; what is returned is then a map of it. Options are those of the method (see
        `headwater methods`).
        """
        asked, labels = self._read(queries, labels)
        shape = (len(asked), len(self))
        with (
            score_matrix(shape, out) as matrix,
            progress_bar("scores", len(asked), unit="queries", show=show) as advance,
        ):
            for start, block, block_labels in _blocks(asked, labels):
                question = self._ask(block, block_labels, method, options, max_new_tokens)
                matrix[start : start + len(block)] = self._score(question)
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
        max_new_tokens: int = NEW_TOKENS,
        show: bool | None = None,
        **options: Any,
    ) -> Attributions:
        """Explain each query: its k strongest proponents and opponents, with word pairs.

        `labels` None explains the label that the last checkpoint predicts, at all checkpoints. `where` filters the
        rows that are shown: label, columns of the corpus, `exclude` (ids), `collapse` (equal rows once).

        Of a language model a query is a prompt, and its label a completion: `queries` may be [(prompt, completion)]
        too, or conversations. Without labels the model's own greedy continuation, at most `max_new_tokens` tokens,
        is explained; an empty label explains a whole text, as plain texts are trained on.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1; it is {k}.")
        asked, labels = self._read(queries, labels)
        chosen = Where.of(where)
        allowed = chosen.mask(self.corpus)
        found: list[Attribution] = []
        with progress_bar("explain", len(asked), unit="queries", show=show) as advance:
            for _, block, block_labels in _blocks(asked, labels):
                question = self._ask(block, block_labels, method, options, max_new_tokens)
                scores = self._score(question)
                margins = question.method.rounding(question.matched, len(block))
                for number in range(len(block)):
                    shown = chosen.collapsed(self.corpus, scores[number], allowed)
                    found.append(self._explain(question, number, scores[number], shown, k, margins[number]))
                    advance(1)
        counts = hubs(
            [[part.example.row for part in side] for item in found for side in (item.proponents, item.opponents)]
        )
        items = tuple(_with_hubs(item, counts) for item in found)
        return Attributions(items, self._facts(method, options, k, len(items)))

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
        self, queries: Corpus, labels: Labels, method: str, options: Mapping[str, Any], max_new_tokens: int
    ) -> _Question:
        """Run the queries through every checkpoint."""
        chosen = get_method(method)
        made = self._options(chosen, options)
        members = self._members
        runs, models = [member.run for member in members], [member.models for member in members]
        asked, targets = (
            settle(runs, models, queries, labels)
            if text_task(self.run.task) is None
            else settle_completions(runs, models, queries, labels, max_new_tokens)
        )
        encodings = [query.encoding for query in asked]
        parts = []
        for member in members:
            manifest = member.store.manifest
            for checkpoint in _chosen(manifest.checkpoints, made.checkpoints):
                model = member.models.load(member.checkpoints[checkpoint.fingerprint])
                places, postings = query_gradients(member.run, model, encodings, targets, manifest.special_tokens)
                parts.append(Part(member.store, checkpoint, checkpoint.weight / len(members), postings, places))
        embeddings = self._embeddings() if made.synonyms else None
        return _Question(asked, chosen.prepare(parts, made, embeddings), chosen)

    def _options(self, method: Method, given: Mapping[str, Any]) -> Any:
        """Make the method's options; an index that keeps few words answers with as many, on both sides."""
        made = method.make_options(**given)
        least = min(
            (m.store.manifest.max_words for m in self._members if m.store.manifest.max_words is not None), default=None
        )
        if least is None or (made.max_words is not None and made.max_words <= least):
            return made
        if made.max_words is None:
            return method.make_options(**{**given, "max_words": least})
        raise UsageError(
            f"this index keeps {least} words a row and checkpoint; it cannot answer with {made.max_words}."
        )

    def _embeddings(self) -> torch.Tensor:
        """Return the word-embedding matrix of the last checkpoint."""
        member = self._members[0]
        last = member.store.manifest.checkpoints[-1]
        model = member.models.load(member.checkpoints[last.fingerprint])
        return input_embeddings(model)[0].weight.detach().cpu()

    def _score(self, question: _Question) -> Float32[np.ndarray, "queries rows"]:
        scores = np.zeros((len(question.queries), len(self)), dtype=np.float32)
        with threads_for(len(scores)):
            question.method.score(question.matched, scores)
        return scores

    def _explain(
        self,
        question: _Question,
        number: int,
        scores: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        k: int,
        margin: float,
    ) -> Attribution:
        """Choose the rows to show and take their scores apart."""
        rows = ends(scores, allowed, k, margin)
        taken = question.method.explain(question.matched, number, rows, len(question.queries))
        exact = taken.scores(rows)
        sides = both_sides(rows, exact, k)
        query = question.queries[number]
        texts = Texts.of(query.example, query.encoding)
        proponents, opponents = (
            self._influences(side, taken, texts, scores) for side in (sides.proponents, sides.opponents)
        )
        push = float(scores[scores > 0].sum(dtype=np.float64))
        return Attribution(
            query, texts.words, proponents, opponents, push, self._notes(query, scores, sides, proponents)
        )

    def _influences(
        self, side: Sequence[tuple[int, float]], taken: Contributions, query: Texts, scores: NDArray[np.float32]
    ) -> tuple[Influence, ...]:
        run = self.run
        examples = [self.corpus[row] for row, _ in side]
        encodings = run.task.encode(run.tokenizer, examples, offsets=True)
        names = TokenNames(run.tokenizer)
        special = frozenset(self._members[0].store.manifest.special_tokens)
        return tuple(
            Influence(
                shown,
                score,
                float(100 * np.count_nonzero(scores <= scores[row]) / len(scores)),
                word_pairs(taken, query, Texts.of(shown, encoding), names, special),
            )
            for shown, encoding, (row, score) in zip(map(run.task.shown, examples), encodings, side, strict=True)
        )

    def _notes(
        self, query: Query, scores: NDArray[np.float32], sides: Sides, proponents: Sequence[Influence]
    ) -> tuple[str, ...]:
        """Say what a reader would otherwise misread."""
        notes = []
        if query.encoding.truncated:
            notes.append(
                f"This text is longer than {self.run.task.max_length} tokens: what follows was cut, as in training."
            )
        if not scores.any():
            notes.append("No training row shares a word with this text, so no row has a score.")
        elif proponents and all(pair.special for influence in proponents for pair in influence.words):
            notes.append("This text shares only special tokens with these rows: no word of theirs speaks for them.")
        return tuple(notes)

    def _facts(self, method: str, options: Mapping[str, Any], k: int, lists: int) -> dict[str, Any]:
        made = self._options(get_method(method), options)
        shown = asdict(made)
        used = [
            checkpoint
            for checkpoint in self.checkpoints
            if made.checkpoints in (None, ()) or checkpoint.name in made.checkpoints
        ]
        shown["checkpoints"] = [checkpoint.name for checkpoint in used]
        return {
            "method": method,
            "options": {**shown, "k": k},
            "lists": lists,
            "run": {
                "name": self.run.folder.resolve().name,
                "rows": len(self),
                "task": self.run.task.kind,
                "labels": list(self.run.label2id),
                "checkpoints": [
                    {"name": checkpoint.name, "step": checkpoint.step, "weight": checkpoint.weight}
                    for checkpoint in used
                ],
                "model": self._members[0].store.manifest.model,
                "seeds": len(self._members),
                "warnings": list(self.run.warnings),
            },
        }


def _chosen(checkpoints: Sequence[StoredCheckpoint], names: Sequence[str] | None) -> Sequence[StoredCheckpoint]:
    if not names:
        return checkpoints
    known = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    for name in names:
        if name not in known:
            raise UsageError(f"this index has no checkpoint {name!r}. It has: {', '.join(known)}.")
    return [checkpoint for checkpoint in checkpoints if checkpoint.name in names]


def _blocks(queries: Corpus, labels: Labels) -> Iterator[tuple[int, Corpus, Labels]]:
    """Cut queries and labels into blocks, so that memory does not grow with their number."""
    if labels is not None and len(labels) != len(queries):
        raise UsageError(f"{len(queries)} queries but {len(labels)} labels: give one label a query.")
    if len(queries) <= _QUERY_BLOCK:
        yield 0, queries, labels
        return
    for start in range(0, len(queries), _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, len(queries))
        yield start, queries.take(range(start, stop)), None if labels is None else labels[start:stop]


def _with_hubs(item: Attribution, counts: Mapping[int, int]) -> Attribution:
    proponents = tuple(replace(part, hub=counts[part.example.row]) for part in item.proponents)
    opponents = tuple(replace(part, hub=counts[part.example.row]) for part in item.opponents)
    return replace(item, proponents=proponents, opponents=opponents)
