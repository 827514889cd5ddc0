"""Building what a method reads: token gradients, layer gradients or representations, each where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.attribution.build import EXAMPLES, build_tokens, check_weights, save_examples, write_source
from headwater.attribution.elsewhere import Elsewhere, build_tokens_elsewhere
from headwater.attribution.grow import grow_tokens, over_kept
from headwater.attribution.kept import keeps_corpus, read_like
from headwater.attribution.layer_sets import build_layers, layer_spec
from headwater.attribution.representations import build_representations
from headwater.errors import UsageError
from headwater.gradients.layers import Projector, Tied
from headwater.methods import Method
from headwater.runs import Checkpoint, Run, text_task
from headwater.store import PostingDtype


def build_index(
    run: Run,
    folder: Path,
    wanted: Method,
    corpus: Any,
    *,
    checkpoints: Sequence[Checkpoint],
    layers: str | None,
    tied: Tied,
    projector: Projector | None,
    dtype: PostingDtype,
    max_words: int | None,
    energy: float | None,
    device: str,
    show: bool | None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Build what a method reads, or what is missing of it, into `folder` (see `Index.build`)."""
    _check_build(wanted, run, layers=layers, projector=projector, cut={"max_words": max_words, "energy": energy})
    kept = corpus is not None or keeps_corpus(folder)
    given = None if corpus is None else read_like(corpus, run)
    if elsewhere is not None:
        elsewhere.check(wanted.need, grows=kept)
    if wanted.need == "tokens":
        stored: dict[str, Any] = {"dtype": dtype, "max_words": max_words, "energy": energy}
        if kept:
            grow_tokens(run, folder, given, checkpoints=checkpoints, device=device, show=show, **stored)
        elif elsewhere is not None:
            build_tokens_elsewhere(run, folder, elsewhere, checkpoints=checkpoints, device=device, show=show, **stored)
        else:
            build_tokens(run, folder, checkpoints=checkpoints, device=device, show=show, **stored)
        return
    check_weights(run, checkpoints)
    if dtype == "int8" or dtype == "int4":
        raise UsageError(f"{wanted.name} reads no token gradients, and only those are stored as {dtype}.")
    if kept:
        run = over_kept(run, folder, given)
    if wanted.need == "layers":
        spec = layer_spec(run, layers, default=wanted.layers, tied=tied, projector=projector, scale=wanted.scale)
        build_layers(run, folder, spec, checkpoints=checkpoints, dtype=dtype, device=device, show=show, follows=kept)
    elif wanted.need == "representations":
        build_representations(run, folder, checkpoints=checkpoints, device=device, show=show, follows=kept)
    if not kept:
        save_examples(run.corpus, folder / EXAMPLES)
        write_source(run, folder)


def _check_build(
    method: Method, run: Run, *, layers: str | None, projector: Projector | None, cut: Mapping[str, Any]
) -> None:
    """Refuse options that the method's files do not have."""
    if method.need == "texts":
        raise UsageError(f"{method.name} reads texts alone: there is nothing to index for it.")
    if method.need != "layers" and (layers is not None or projector is not None):
        raise UsageError(f"{method.name} reads no layer gradients: layers and projector say nothing to it.")
    for name, given in cut.items():
        if method.need != "tokens" and given is not None:
            raise UsageError(f"{method.name} reads no token gradients: {name} says nothing to it.")
    if method.classes and text_task(run.task) is not None:
        raise UsageError(f"{method.name} needs classes; the task of {run.folder} is {run.task.kind}.")
