"""`headwater index`: what it will take first, then the build."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwater.attribution.estimate import check_disk, check_fits, estimate_index, is_small
from headwater.attribution.index import Index
from headwater.attribution.kept import kept_corpus, over, read_like
from headwater.attribution.layer_sets import LayerSpec, layer_spec
from headwater.attribution.plans import plan_store
from headwater.cli.console import answers, asides, duration, print_json, print_note, size
from headwater.cli.estimate import Checkpoints, Dtypes, Energy, MaxWords, Out, chosen_checkpoints, show_estimate
from headwater.cli.options import Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run, stores_in
from headwater.cli.projection import LAYER_FLAGS, projector_of
from headwater.errors import UsageError
from headwater.methods import Method, get_method
from headwater.store.manifest import NAME as MANIFEST
from headwater.store.remote import place_of

if TYPE_CHECKING:
    from headwater import Checkpoint, Run

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater index runs/first",
        "headwater index runs/first --max-words 20 --out /big-disk/first-index",
        "headwater index runs/first --dtype int8 --energy 0.999",
        "headwater index runs/first --corpus all-rows-of-today.jsonl",
        "headwater index runs/first --method logra --method representer",
        "headwater index runs/first --method tracin --layers 'quarter:2,last' --dim 32",
        "headwater index runs/first --engine ray --address auto --out s3://bucket/first-index",
        "headwater index my-trainer-output --data train.csv --text-column sentence --max-length 128",
    )
)
@takes(plain=PLAIN_FLAGS, layers=LAYER_FLAGS)
def index(
    run: RunPlace,
    *,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Build what this method reads (see `headwater methods`); repeat for several. "
            "[dim]\\[default: tracin-we][/dim]",
            show_default=False,
        ),
    ] = None,
    layers: Given,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Index these rows in the place of the run's own. Of an index that is there only rows that are new or "
            "changed are computed; rows are known by their ids, or else by their content.",
        ),
    ] = None,
    out: Out = None,
    dtype: Dtypes = "float16",
    max_words: MaxWords = None,
    energy: Energy = None,
    checkpoints: Checkpoints = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="Where the work is done: in this process, or on a Ray cluster, whose nodes see RUN and --out."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of the Ray cluster, or 'auto'; if not given, Ray starts here."),
    ] = None,
    as_json: Json = False,
    plain: Given,
) -> None:
    """Index a run: what every training row taught, for the methods that you will ask.

    Token gradients, word by word, take one forward and one backward pass to the word embeddings for each row and
    checkpoint; gradients of layers a whole one; representations a forward pass. What it will cost is said first, and
    what cannot fit is refused. What stands there already stays. Interrupted, it resumes where it was.
    """
    wanted = [get_method(name) for name in dict.fromkeys(method or ["tracin-we"])]
    _check_options(wanted, layers, {"dtype": dtype, "max_words": max_words, "energy": energy})
    opened = open_run(run, plain)
    folder, remote = place_of(out or opened.folder / "index")
    where: dict[str, Any] = {"out": folder if remote is None else remote.url, "engine": engine, "address": address}
    rows = kept_corpus(folder) if corpus is None else read_like(corpus, opened)
    if rows is not None:
        opened = over(opened, rows)
    where["corpus"] = None if corpus is None else rows
    chosen = chosen_checkpoints(opened, checkpoints)
    builds = _builds(wanted, opened, layers)
    place, asked = out or run / "index", run if out is None else where["out"]
    made = []
    for build in builds:
        stored = {"dtype": dtype, "max_words": max_words, "energy": energy}
        facts = _made(build, opened, folder, chosen, stored, layers, where)
        made.append(facts)
        if not as_json:
            _show(facts, place if remote is None else remote.url)
    texts = [each.name for each in wanted if each.need == "texts"]
    if as_json:
        total = sum(store.manifest.bytes for store in stores_in(folder)) if made else 0
        facts = {
            "index": str(place if remote is None else remote.url),
            "rows": len(opened.corpus),
            "checkpoints": [each.name for each in chosen],
        }
        seconds, estimates = sum(build["seconds"] for build in made), [build["estimate"] for build in made]
        facts |= {"bytes": total, "seconds": seconds, "estimate": next(filter(None, estimates), None)}
        print_json({**facts, "built": made, "nothing_to_build": texts})
        return
    if texts:
        need = "needs" if len(texts) == 1 else "need"
        print_note(f"nothing to build for {', '.join(texts)}, which {need} the texts alone.")
    named = "" if wanted[0].name == "tracin-we" else f" --method {wanted[0].name}"
    answers().print(f'Next: headwater query {asked}{named} --text "..."', markup=False, soft_wrap=True)


@dataclass(frozen=True)
class _Build:
    """What is built in one go, and the methods that read it."""

    methods: list[Method]
    spec: LayerSpec | None
    """Of layer gradients: which."""

    @property
    def names(self) -> str:
        return ", ".join(method.name for method in self.methods)


def _check_options(wanted: Sequence[Method], layers: Given, stored: dict[str, Any]) -> None:
    names, needs = ", ".join(method.name for method in wanted), {method.need for method in wanted}
    for option in layers if "layers" not in needs else ():
        raise UsageError(f"--{option.replace('_', '-')} is for methods over gradients of layers; {names}: not such.")
    for option in ("max_words", "energy"):
        if stored[option] is not None and "tokens" not in needs:
            raise UsageError(f"--{option.replace('_', '-')} is for methods over token gradients; {names}: not such.")
    others = [method.name for method in wanted if method.need in ("layers", "representations")]
    if stored["dtype"] in ("int8", "int4") and others:
        raise UsageError(
            f"--dtype {stored['dtype']} is for token gradients alone; index {', '.join(others)} with float16."
        )


def _builds(wanted: Sequence[Method], run: Run, layers: Given) -> list[_Build]:
    """Put methods that read the same together."""
    found: dict[Any, _Build] = {}
    for method in wanted:
        if method.need == "texts":
            continue
        spec = None
        if method.need == "layers":
            spec = layer_spec(
                run,
                layers.get("layers"),
                default=method.layers,
                tied=layers.get("tied", "separate"),
                projector=projector_of(layers),
                scale=method.scale,
            )
        found.setdefault((method.need, spec), _Build([], spec)).methods.append(method)
    return list(found.values())


def _made(
    build: _Build,
    run: Run,
    folder: Path,
    chosen: Sequence[Checkpoint],
    how: dict[str, Any],
    layers: Given,
    where: dict[str, Any],
) -> dict[str, Any]:
    """Say what a build will take, refuse what cannot fit, build, and return what was built."""
    first, names = build.methods[0], [checkpoint.name for checkpoint in chosen]
    facts: dict[str, Any] = {"methods": [method.name for method in build.methods], "need": first.need}
    store, estimate = folder, None
    if first.need != "tokens":
        plan = plan_store(run, folder, build.spec, checkpoints=chosen, dtype=how["dtype"])
        check_disk(plan.disk_bytes, folder, less=_LESS)
        store, facts = plan.folder, facts | plan.to_dict()
        how = {"dtype": how["dtype"]}
    elif not is_small(run, chosen) and not (where["corpus"] is not None and (folder / MANIFEST).exists()):
        estimate = estimate_index(run, folder, checkpoints=chosen, **how)
        show_estimate(asides(), estimate, folder)
        check_fits(estimate, folder)
    if build.spec is not None:
        how |= {
            "projector": projector_of(layers),
            **{name: layers[name] for name in ("layers", "tied") if name in layers},
        }
    started = time.monotonic()
    made = Index.build(run, method=first.name, checkpoints=names, **how, **where)
    seconds = time.monotonic() - started
    written = {each.folder: each.manifest.bytes for each in stores_in(folder)}
    facts |= {"rows": len(run.corpus), "checkpoints": names, "bytes": written[store], "seconds": seconds}
    facts["dead"] = made.dead if first.need == "tokens" else 0
    return {**facts, "estimate": None if estimate is None else estimate.to_dict()}


_LESS = "fewer --layers or a smaller --dim, --dtype float16 instead of float32, or --checkpoints last"


_SCALES = {"none": "", "second-moments": " over Adam's second moments", "adam-update": " as Adam's next step"}


def _show(facts: dict[str, Any], place: Path | str) -> None:
    told = [
        f"{facts['rows']:,} rows",
        ", ".join(facts["checkpoints"]),
        size(facts["bytes"]),
        duration(facts["seconds"]),
    ]
    text = f"Indexed in {place} for {', '.join(facts['methods'])}: {', '.join(told)}."
    console = answers()
    console.print(text, markup=False, soft_wrap=True)
    if facts["dead"]:
        print_note(f"{facts['dead']:,} rows that were changed or removed still take space: headwater compact {place}")
    if "numbers" not in facts:
        return
    what = f"{facts['numbers']:,} numbers, {size(facts['row_bytes'])} a row and checkpoint"
    if facts["layers"] is not None:
        count = len(facts["layers"])
        what = f"{facts['patterns']!r}{_SCALES[facts['scale']]}: {count} layer{'' if count == 1 else 's'}, {what}"
    console.print(f"  {what}", markup=False, soft_wrap=True)
    if facts["left_out"]:
        print_note(facts["left_out"])
