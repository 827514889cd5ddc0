"""Which layers: a few names that mean the same in every model, or a glob on module names.

    word-embeddings          the input embedding matrix
    last                     the last linear layer or convolution, in module order
    second-to-last           the one before
    quarter:1 .. quarter:4   of depth, over transformer blocks (an encoder's before a decoder's)
    adapters                 what LoRA trained (peft): lora_A, lora_B, and the layers trained whole beside them
    all                      every layer that can be captured
    bert.*.query             a glob; a block's name means all in it

Several are joined by commas; one that begins with ! takes away. Nothing matched, or an unsupported layer named, is an
error that lists what there is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from headwater.errors import ModelError, UsageError
from headwater.gradients.layers.factors import Layer
from headwater.gradients.layers.table import LayerRow, Tied, active_adapters, layer_table, layers_of

_NAMES = "word-embeddings, last, second-to-last, quarter:1 .. quarter:4, adapters, all, or a glob on module names"
_SHOWN = 12  # names in a message


@dataclass(frozen=True)
class Selection:
    """What a pattern selects, in the model's order, and what it matches that cannot be captured."""

    layers: tuple[Layer, ...]
    left_out: tuple[LayerRow, ...]

    @property
    def size(self) -> int:
        """Entries of one gradient over all layers."""
        return sum(layer.size for layer in self.layers)

    def note(self) -> str:
        """Say what was left out; empty where nothing was."""
        if not self.left_out:
            return ""
        parameters = sum(row.size for row in self.left_out)
        return (
            f"left out {len(self.left_out)} of the modules asked for ({parameters:,} parameters), "
            f"which cannot be captured: {_list([f'{row.name} ({row.refusal})' for row in self.left_out])}."
        )


def select_layers(model: nn.Module, patterns: str | Sequence[str], *, tied: Tied = "separate") -> Selection:
    """Return the layers that `patterns` name (see the module's top), each once; `tied`: see `table`.

    Raises UsageError for a pattern that matches nothing or names only what cannot be captured, and ModelError where a
    named place is not in this model (no blocks to quarter, no embedding matrix).
    """
    if isinstance(patterns, str):
        patterns = patterns.split(",")
    asked = [pattern.strip() for pattern in patterns if pattern.strip()]
    if not asked or all(pattern.startswith("!") for pattern in asked):
        raise UsageError(f"no layers are named. Name {_NAMES}.")
    layers, rows = layers_of(model, tied), layer_table(model)
    chosen: set[str] = set()
    for pattern in asked:
        found = _match(model, pattern.removeprefix("!"), layers, rows)
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    kept = tuple(layer for layer in layers if chosen & set(layer.modules))
    if not kept:
        raise UsageError(f"{','.join(asked)!r} leaves no layer.")
    return Selection(kept, tuple(row for row in rows if row.refusal and row.name in chosen))


def _match(model: nn.Module, pattern: str, layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    """Names of modules that one pattern means: of layers and of what cannot be captured."""
    if pattern == "all":
        return {row.name for row in rows} | {name for layer in layers for name in layer.modules}
    if pattern == "word-embeddings":
        return _word_embeddings(model, layers, rows)
    if pattern in ("last", "second-to-last"):
        return _from_the_end(model, layers, rows, 1 if pattern == "last" else 2)
    if pattern.startswith("quarter:"):
        return _quarter(model, pattern, layers, rows)
    if pattern == "adapters":
        return _adapters(model, layers, rows)
    return _glob(model, pattern, layers, rows)


def _word_embeddings(model: nn.Module, layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    try:
        matrix = model.get_input_embeddings().weight  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        raise ModelError(
            f"{type(model).__name__} has no input-embedding matrix (get_input_embeddings). {_there_are(rows)}"
        ) from None
    held = {name for name, module in model.named_modules() if getattr(module, "weight", None) is matrix}
    lookups = {name for name in held if isinstance(model.get_submodule(name), nn.Embedding)}
    found = {name for layer in layers for name in layer.modules if name in lookups}
    if not found:
        why = next((row.refusal for row in rows if row.name in held and row.refusal), "tied='output' leaves it out")
        raise UsageError(f"the word embeddings cannot be captured: {why}.")
    return found


def _from_the_end(model: nn.Module, layers: Sequence[Layer], rows: Sequence[LayerRow], place: int) -> set[str]:
    """The last linear layers. Module order is the order of use in every architecture of transformers that we know."""
    kinds = {row.name: row.kind for row in rows}
    linear = [
        name
        for name, _ in model.named_modules()
        if kinds.get(name) in ("Linear", "Conv1D", "Conv1d") and any(name in layer.modules for layer in layers)
    ]
    if len(linear) < place:
        raise UsageError(f"{type(model).__name__} has {len(linear)} linear layer(s) to capture. {_there_are(rows)}")
    return {linear[-place]}


def transformer_blocks(model: nn.Module) -> list[str]:
    """Return the names of the model's blocks in order of depth; an encoder's come before a decoder's.

    Blocks are the entries, of one class, of the outermost lists of modules.
    """
    blocks: list[str] = []
    for name, module in model.named_modules():
        inside = any(name == block or name.startswith(f"{block}.") for block in blocks)
        like = isinstance(module, nn.ModuleList) and len({type(entry) for entry in module}) == 1
        if like and not inside and any(True for _ in module.parameters()):
            assert isinstance(module, nn.ModuleList)
            blocks += [f"{name}.{place}" for place in range(len(module))]
    return blocks


def _quarter(model: nn.Module, pattern: str, layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    found = re.fullmatch(r"quarter:([1-4])", pattern)
    if found is None:
        raise UsageError(f"{pattern!r}: a quarter is quarter:1, quarter:2, quarter:3 or quarter:4.")
    blocks = transformer_blocks(model)
    which = int(found[1])
    inside = blocks[(which - 1) * len(blocks) // 4 : which * len(blocks) // 4]
    if len(blocks) < 4:
        raise ModelError(
            f"{type(model).__name__} has {len(blocks)} block(s) of its own (some share their weights): too few for "
            f"quarters. {_there_are(rows)}"
        )
    return _within(inside, layers, rows)


def _adapters(model: nn.Module, layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    found = _within(active_adapters(model), layers, rows)
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no adapters (lora_A, lora_B, modules_to_save): it was not trained with LoRA, "
            f"or they were merged into its weights. {_there_are(rows)}"
        )
    refused = {row.name: row.refusal for row in rows if row.refusal}
    if found <= refused.keys():
        name = min(found)
        raise UsageError(f"{name} cannot be captured: {refused[name]}. {_there_are(rows)}")
    return found


def _within(places: Sequence[str], layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    """Names of the modules that are these places, or in them."""
    named = {name for layer in layers for name in layer.modules} | {row.name for row in rows}
    return {name for name in named if any(name == place or name.startswith(f"{place}.") for place in places)}


def _glob(model: nn.Module, pattern: str, layers: Sequence[Layer], rows: Sequence[LayerRow]) -> set[str]:
    capturable = {name for layer in layers for name in layer.modules}
    other_side = {row.name for row in rows if row.supported} - capturable
    refused = {row.name: row.refusal for row in rows if row.refusal}
    found = {name for name in capturable | set(refused) if fnmatchcase(name, pattern)}
    if not found:
        found = {name for name in capturable | set(refused) if name.startswith(f"{pattern}.")}
    if not found and any(fnmatchcase(name, pattern) for name in other_side):
        raise UsageError(f"{pattern!r} is the side of tied weights that was not chosen: see `tied`.")
    if not found:
        raise UsageError(f"no layer is named {pattern!r}.{_near(pattern, capturable)} {_there_are(rows)}")
    if not found & capturable:
        name = min(found)
        raise UsageError(f"{name} cannot be captured: {refused[name]}. {_there_are(rows)}")
    return found


def _near(pattern: str, names: set[str]) -> str:
    near = difflib.get_close_matches(pattern, sorted(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _there_are(rows: Sequence[LayerRow]) -> str:
    """List what there is, layers of the same name in different blocks once."""
    names = dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", row.name) for row in rows if row.supported)
    return f"There are: {_list(list(names))}; or {_NAMES}."


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
