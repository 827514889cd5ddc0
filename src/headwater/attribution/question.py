"""A block of queries as methods see it: token gradients, layer gradients, representations, made when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from jaxtyping import Float32
from torch import Tensor

from headwater.attribution.layer_parts import Asked, layer_part, push_queries
from headwater.attribution.layer_sets import LayerSet
from headwater.attribution.members import Member
from headwater.attribution.moments import divided_places
from headwater.attribution.queries import Query, pass_through, query_gradients
from headwater.attribution.representations import representation_part
from headwater.errors import StoreError, UsageError
from headwater.gradients import fold_places, input_embeddings
from headwater.methods import LayerPart, Method, RepresentationPart, Scale, TokenPart
from headwater.runs import Corpus, Example, Run, text_task
from headwater.store import Store, StoredCheckpoint, postings_in_memory

Made = TypeVar("Made")


class AskedQuestion:
    """See `methods.Question`. What was computed for one part is kept for the next that needs it."""

    def __init__(
        self, members: Sequence[Member], asked: Sequence[Query], targets: Sequence[int], method: Method
    ) -> None:
        self.asked = tuple(asked)
        self.targets = tuple(targets)
        self.method = method
        self.used: tuple[StoredCheckpoint, ...] = ()
        """The checkpoints of the first run that the method asked for."""
        self.used_layers: str | None = None
        """The layers of the first run that the method asked for, as patterns."""
        self._members = tuple(members)
        self._kept: dict[tuple[Any, ...], Any] = {}

    @property
    def run(self) -> Run:
        """Return the (first) run."""
        return self._members[0].run

    @property
    def corpus(self) -> Corpus:
        """Return the training rows."""
        return self.run.corpus

    @property
    def token_store(self) -> Store | None:
        """Return the token gradients of the (first) run, if they are indexed."""
        return self._members[0].tokens

    @property
    def queries(self) -> Sequence[Example]:
        """Return the queries as their task shows them, with the label that is explained."""
        if text_task(self.run.task) is not None:
            return [query.example for query in self.asked]
        return [replace(query.example, label=query.label) for query in self.asked]

    def tokens(self, checkpoints: Sequence[str] | None, *, second_moments: bool = False) -> Sequence[TokenPart]:
        """Return token gradients (see `methods.Question`). Raises StoreError where they are not indexed."""
        encodings = [query.encoding for query in self.asked]
        parts = []
        for number, member in enumerate(self._members):
            store = member.tokens
            if store is None:
                raise self._missing(member, "token gradients", "")
            special = store.manifest.special_tokens
            for stored in self._chosen(number, store.manifest.checkpoints, checkpoints):
                checkpoint = member.checkpoints[stored.fingerprint]
                model = member.models.load(checkpoint)

                push = partial(query_gradients, member.run, model, encodings, self.targets, at=stored.name)
                places = self._once(("tokens", number, stored.fingerprint), push)
                if second_moments:
                    places = divided_places(member.run, checkpoint, model, places)
                postings = postings_in_memory(fold_places(places), special=special)
                parts.append(TokenPart(store, stored, stored.weight / len(self._members), postings, places))
        return parts

    def embeddings(self) -> Float32[Tensor, "v d"]:
        """Return the word-embedding matrix of the last checkpoint."""
        member = self._members[0]
        model = member.models.load(member.run.checkpoints[-1])
        return input_embeddings(model)[0].weight.detach().cpu()

    def layers(
        self,
        checkpoints: Sequence[str] | None,
        *,
        layers: str | None,
        scale: Scale = "none",
        second_moments: bool = False,
    ) -> Sequence[LayerPart]:
        """Return layer gradients (see `methods.Question`). Raises StoreError where they are not indexed."""
        if second_moments and scale != "none":
            raise UsageError("second_moments divides the queries' side of gradients that are stored undivided.")
        parts = []
        for number, member in enumerate(self._members):
            found, names = self._set(member, layers, scale)
            if number == 0:
                self.used_layers = layers or (self.method.layers if self.method.layers != "all" else found.spec.layers)
            for stored in self._chosen(number, found.store.manifest.checkpoints, checkpoints):
                asked = Asked(
                    member, found, stored, [query.encoding for query in self.asked], self.targets, second_moments
                )
                key = ("layers", number, found.store.folder, stored.fingerprint, second_moments)
                queries = self._once(key, partial(push_queries, asked))
                parts.append(layer_part(asked, names, queries, stored.weight / len(self._members), number))
        return parts

    def representations(self, checkpoints: Sequence[str] | None) -> Sequence[RepresentationPart]:
        """Return what the last layer saw and said. Raises StoreError where it is not indexed."""
        encodings = [query.encoding for query in self.asked]
        parts = []
        for number, member in enumerate(self._members):
            store = member.representations
            if store is None:
                raise self._missing(member, "representations", "")
            for stored in self._chosen(number, store.manifest.checkpoints, checkpoints):
                weight = stored.weight / len(self._members)

                model = member.models.load(member.checkpoints[stored.fingerprint])
                pass_through(len(encodings), stored.name)
                made = partial(representation_part, member.run, model, store, stored, encodings, self.targets)
                part = self._once(("representations", number, stored.fingerprint), made)
                parts.append(replace(part, weight=weight, run=number))
        return parts

    def checkpoint_names(self, options: Any) -> list[str]:
        """Return the checkpoints that a method would add up, if none are named."""
        member, need = self._members[0], self.method.need
        if need == "layers":
            stored = self._set(member, options.layers, self.method.scale_of(options))[0].store.manifest.checkpoints
        else:
            store = member.tokens if need == "tokens" else member.representations
            stored = member.stored_checkpoints if store is None else store.manifest.checkpoints
        return [checkpoint.name for checkpoint in stored]

    def layer_names(self, options: Any) -> list[str]:
        """Return the layers that a method would score over."""
        return self._set(self._members[0], options.layers, self.method.scale_of(options))[1]

    def _set(self, member: Member, wanted: str | None, scale: Scale) -> tuple[LayerSet, list[str]]:
        """Find the set that holds the layers wanted, the one with the fewest others; and the layers' names."""
        sets = [each for each in member.layer_sets if each.spec.scale == scale]
        strict = wanted is not None or self.method.layers != "all"
        asked = wanted or self.method.layers
        fitting = []
        for each in sets:
            if not strict or each.spec.layers == asked:
                names = [span.name for span in each.spans]
            else:
                names = self._once(
                    ("names", id(member), each.store.folder, asked), partial(_names, member, each, asked)
                )
            if names and each.holds(names):
                fitting.append((each.spec.layers != asked, each.size, str(each.store.folder), each, names))
        if not fitting:
            raise self._missing(member, f"gradients of the layers {asked!r}", "" if wanted is None else wanted)
        _, _, _, found, names = min(fitting, key=lambda entry: entry[:3])
        return found, names

    def _missing(self, member: Member, what: str, layers: str) -> StoreError:
        named = f" --layers '{layers}'" if layers else ""
        since = ", or not since its corpus changed" if member.run.corpus is not member.own.corpus else ""
        method = "" if self.method.name == "tracin-we" else f" --method {self.method.name}"
        return StoreError(
            f"{member.folder}: {self.method.name} reads {what}, which are not indexed here{since}. Build them: "
            f"headwater index {member.run.folder}{method}{named}"
        )

    def _chosen(
        self, number: int, stored: Sequence[StoredCheckpoint], names: Sequence[str] | None
    ) -> Sequence[StoredCheckpoint]:
        known = {checkpoint.name: checkpoint for checkpoint in stored}
        for name in names or ():
            if name not in known:
                raise UsageError(f"this index has no checkpoint {name!r}. It has: {', '.join(known)}.")
        chosen = [checkpoint for checkpoint in stored if not names or checkpoint.name in names]
        if number == 0:
            self.used = tuple(chosen)
        return chosen

    def _once(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        if key not in self._kept:
            self._kept[key] = make()
        made: Made = self._kept[key]
        return made


def _names(member: Member, found: LayerSet, patterns: str) -> list[str]:
    """Return what the patterns name of a set's layers; a layer's own name needs no model."""
    names = [span.name for span in found.spans]
    if patterns in names:
        return [patterns]
    checkpoint = member.checkpoints[found.store.manifest.checkpoints[-1].fingerprint]
    model = member.models.load(checkpoint, merged=found.spec.merged)
    selected = replace(found.spec, layers=patterns).select(model)
    return [layer.name for layer in selected.layers]
