"""`headwater layers`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headwater.attribution.cancellation import GroupCancellation, cancellation
from headwater.attribution.layer_sets import layer_spec
from headwater.attribution.members import default_device
from headwater.attribution.passes import Models
from headwater.attribution.plans import StorePlan, plan_store
from headwater.cli.console import answers, print_json, print_note, size
from headwater.cli.estimate import chosen_checkpoints
from headwater.cli.options import Flag, Given, Json, examples, takes
from headwater.cli.places import PLAIN_FLAGS, RunPlace, open_run
from headwater.cli.projection import LAYER_FLAGS, PATTERNS, projector_of
from headwater.errors import ModelError, UsageError
from headwater.gradients.layers import LayerRow, layer_table, select_layers, transformer_blocks

if TYPE_CHECKING:
    from headwater import Checkpoint, Run

_PANEL = "Cancellation"
_FLAGS = [
    Flag(
        "groups",
        str,
        "Groups of layers: patterns as of --layers, groups apart by semicolons. Word embeddings, quarters of depth, "
        "adapters, last and all, as far as there are such, if not given.",
        panel=_PANEL,
        metavar="P;P;...",
    ),
    Flag("checkpoints", list[str], "'last', or a name or step, repeated; all if not given.", None, _PANEL, "NAME"),
    Flag("sample", int, "Take so many rows, drawn at random, instead of all.", None, _PANEL, "N"),
    Flag("seed", int, "Seed of that drawing.", 0, _PANEL, "N"),
    Flag(
        "against",
        Literal["steps", "training"],
        "Compare the separate steps with their sum, or with what training made of the weights.",
        "steps",
        _PANEL,
    ),
]

_SELECT = [replace(LAYER_FLAGS[0], help=f"Say what these select: {PATTERNS}"), *LAYER_FLAGS[1:]]
_SELECT = [replace(flag, panel="What would be indexed") for flag in _SELECT]

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater layers runs/first",
        "headwater layers runs/first --layers 'quarter:4,!*LayerNorm' --dim 8",
        "headwater layers runs/first --cancellation --sample 500",
        "headwater layers runs/first --cancellation --groups 'word-embeddings;quarter:2,quarter:3;last'",
    )
)
@takes(plain=PLAIN_FLAGS, chosen=_SELECT, how=_FLAGS)
def layers(
    run: RunPlace,
    *,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look at this checkpoint; the last if not given.")
    ] = None,
    chosen: Given,
    cancel: Annotated[
        bool,
        typer.Option(
            "--cancellation",
            metavar="",
            help="Measure how much the rows undo each other's steps: a pass over all rows. Shared weights are joint, "
            "unless --tied says otherwise.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    how: Given,
    as_json: Json = False,
    plain: Given,
) -> None:
    """List a model's layers, what a pattern selects of them, and how much they cancel.

    Every module that holds parameters, whether its gradients can be captured, and the quarter of depth that it
    stands in. With --layers: what is selected, and the bytes that a row of it takes in an index.

    With --cancellation three ratios of what the rows pushed to what came of it, for each group of layers: 1 means that
    nothing cancels. norm: lengths of steps; element: the middle one of all weights; gradient: sums over all weights.
    """
    for name in how if not cancel else ():
        raise UsageError(f"--{name} goes with --cancellation.")
    opened = open_run(run, plain)
    at = opened.checkpoints[-1] if checkpoint is None else opened.select([checkpoint])[0]
    plan = _selected(opened, at, chosen) if chosen else None
    found = _cancellation(opened, chosen, how) if cancel else []
    facts = _facts(opened, at, plan)
    if as_json:
        print_json({"run": str(run), **facts, "cancellation": [each.to_dict() for each in found] if cancel else None})
        return
    console = answers()
    if cancel:
        _show_cancellation(console, found, how.get("against", "steps"))
    else:
        _show_modules(console, facts)


def _selected(run: Run, at: Checkpoint, chosen: Given) -> StorePlan:
    spec = layer_spec(
        run,
        chosen.get("layers"),
        tied=chosen.get("tied", "separate"),
        projector=projector_of(chosen),
        scale="none",
    )
    return plan_store(run, run.folder / "index", spec, checkpoints=[at])


def _cancellation(run: Run, chosen: Given, how: Given) -> list[GroupCancellation]:
    groups = [group.strip() for group in how.get("groups", "").split(";") if group.strip()]
    return cancellation(
        run,
        groups or None,
        checkpoints=[point.name for point in chosen_checkpoints(run, how.get("checkpoints"))],
        sample=how.get("sample"),
        seed=how.get("seed", 0),
        against=how.get("against", "steps"),
        tied=chosen.get("tied", "joint"),
    )


def _facts(run: Run, at: Checkpoint, plan: StorePlan | None) -> dict[str, Any]:
    adapted = (at.path / "adapter_config.json").is_file()
    model = Models(default_device()).load(at, merged=not adapted)
    rows = layer_table(model)
    quarters = _quarters(model)
    spans = {} if plan is None else {span["name"]: span["size"] for span in plan.manifest.spec["spans"]}
    return {
        "checkpoint": at.name,
        "model": type(model).__name__,
        "blocks": len(transformer_blocks(model)),
        "modules": [_module(row, quarters, spans) for row in rows],
        "selected": None if plan is None else {**plan.to_dict(), "parameters": _entries(plan)},
    }


def _entries(plan: StorePlan) -> int:
    return 0 if plan.selection is None else plan.selection.size


def _module(row: LayerRow, quarters: dict[str, int], spans: dict[str, int]) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "shape": list(row.shape),
        "bias": row.bias,
        "entries": row.size,
        "supported": row.supported,
        "refusal": row.refusal,
        "shares": row.shares,
        "quarter": quarters.get(row.name),
        "numbers": spans.get(row.name),
    }


def _quarters(model: Any) -> dict[str, int]:
    """Which quarter of depth each module stands in, if in one."""
    found: dict[str, int] = {}
    for number in (1, 2, 3, 4):
        try:
            chosen = select_layers(model, f"quarter:{number}")
        except (ModelError, UsageError):
            continue
        names = [name for layer in chosen.layers for name in layer.modules]
        found |= dict.fromkeys([*names, *(row.name for row in chosen.left_out)], number)
    return found


def _show_modules(console: Console, facts: dict[str, Any]) -> None:
    modules, selected = facts["modules"], facts["selected"]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("module", overflow="fold")
    table.add_column("kind")
    table.add_column("shape", no_wrap=True)
    table.add_column("entries", justify="right", no_wrap=True)
    quarters = any(module["quarter"] for module in modules)
    if quarters:
        table.add_column("quarter", justify="right", no_wrap=True)
    if selected:
        table.add_column("stored", justify="right", no_wrap=True)
    for module in modules:
        cells = [_dim(module["name"], module["supported"]), module["kind"], _shape(module), f"{module['entries']:,}"]
        cells += [str(module["quarter"] or "")] if quarters else []
        cells += [f"{module['numbers']:,}" if module["numbers"] else ""] if selected else []
        table.add_row(*cells)
    console.print(table)
    _show_notes(console, facts)


def _shape(module: dict[str, Any]) -> str:
    return "x".join(map(str, module["shape"]))


def _dim(name: str, supported: bool) -> str:
    return escape(name) if supported else f"[dim]{escape(name)}[/dim]"


def _show_notes(console: Console, facts: dict[str, Any]) -> None:
    """Say below the table what few modules have, so that the table stays narrow."""
    modules, selected = facts["modules"], facts["selected"]
    total = sum(module["entries"] - (math.prod(module["shape"]) if module["shares"] else 0) for module in modules)
    supported = [module for module in modules if module["supported"]]
    blocks = f", {facts['blocks']} blocks" if facts["blocks"] else ""
    _say(console, f"\n{facts['model']} of {facts['checkpoint']}: {len(modules)} modules, {total:,} parameters{blocks}.")
    for module in modules:
        if module["shares"]:
            _say(console, f"{module['name']} shares its weight with {module['shares']}.")
    for refusal in dict.fromkeys(module["refusal"] for module in modules if module["refusal"]):
        names = [module["name"] for module in modules if module["refusal"] == refusal]
        _say(console, f"Cannot be captured: {', '.join(names)} ({refusal}).")
    if len(supported) == len(modules):
        _say(console, "The gradients of all of them can be captured.")
    if selected:
        count = len(selected["layers"])
        _say(
            console,
            f"--layers '{selected['patterns']}': {count} layer{'' if count == 1 else 's'}, "
            f"{selected['parameters']:,} entries, stored as {selected['numbers']:,} numbers, "
            f"{size(selected['row_bytes'])} a row and checkpoint (float16).",
        )
        if selected["left_out"]:
            print_note(selected["left_out"])


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


_READ = {
    "steps": "1: nothing cancels; 100: a hundredth is left.",
    "training": "Against what training made of the weights: Adam's steps are of another size, so compare groups.",
}


def _show_cancellation(console: Console, found: Sequence[GroupCancellation], against: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("group", overflow="fold")
    for name in ("layers", "entries", "norm", "element", "gradient"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        ratios = [_ratio(value) for value in (each.ratios.norm, each.ratios.element, each.ratios.gradient)]
        table.add_row(escape(each.group), f"{len(each.layers):,}", f"{each.parameters:,}", *ratios)
    console.print(table)
    _say(console, f"\nOver {found[0].ratios.examples:,} gradients (rows times checkpoints). {_READ[against]}")
    for each in found:
        if each.left_out:
            print_note(f"{each.group}: {each.left_out}")


def _ratio(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
