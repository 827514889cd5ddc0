"""Which task a training has: the options that say so, and the corpus and task that they make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from headwater.cli.options import Flag, Given
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater import Columns, Corpus
    from headwater.runs import Task

TaskName = Literal["classification", "pairs", "causal-lm", "seq2seq", "masked-lm"]
SEPARATOR = "\\n"
_PANEL = "Task"

TASK_FLAGS = [
    Flag("task", TaskName, "What is learned; classification (or pairs) if not given.", panel=_PANEL),
    Flag("prompt_column", str, "Column of the prompts, or of the source texts.", panel=_PANEL, metavar="NAME"),
    Flag("completion_column", str, "Column of the completions, or of the targets.", panel=_PANEL, metavar="NAME"),
    Flag("separator", str, "causal-lm: what stands between prompt and completion.", SEPARATOR, _PANEL, "TEXT"),
    Flag("chat", bool, "causal-lm: write prompts by the model's chat template too, not conversations alone.",
         panel=_PANEL),
    Flag("no_end", bool, "causal-lm: put no end token after texts.", panel=_PANEL),
    Flag("reduction", Literal["sum", "mean"], "An example's loss: its tokens' sum, or their mean.", "sum", _PANEL),
    Flag("mask_share", float, "masked-lm: part of a text's tokens that is masked.", 0.15, _PANEL, "X"),
    Flag("mask_seed", int, "masked-lm: seed of the masks.", 0, _PANEL, "N"),
    Flag("max_target_length", int, "seq2seq: targets are cut to this many tokens.", panel=_PANEL, metavar="N"),
]  # fmt: skip
"""What is learned from a row. `max_length` is told elsewhere."""

_ONLY = {
    "separator": ("causal-lm",),
    "chat": ("causal-lm",),
    "no_end": ("causal-lm",),
    "max_target_length": ("seq2seq",),
    "mask_share": ("masked-lm",),
    "mask_seed": ("masked-lm",),
    "reduction": ("causal-lm", "seq2seq", "masked-lm"),
    "prompt_column": ("causal-lm", "seq2seq"),
    "completion_column": ("causal-lm", "seq2seq"),
}


def read_task(source: str, columns: Given, given: Given, *, max_length: int | None = None) -> tuple[Corpus, Task]:
    """Read the rows, with the columns that the task needs, and make the task.

    Columns of a language model that are not named are `prompt` and `completion` where there are such, else `messages`
    (conversations), else the text (and label) columns. Raises DataError, UsageError.
    """
    from headwater.runs import Classification, Corpus
    from headwater.runs.readers import read_table

    kind = given.get("task")
    for name, kinds in _ONLY.items():
        if name in given and kind not in kinds:
            raise UsageError(f"--{name.replace('_', '-')} goes with --task {' or '.join(kinds)}.")
    named = _columns(columns)
    if kind in (None, "classification", "pairs"):
        corpus = Corpus.read(source, named)
        pairs = corpus.columns.text_pair is not None
        if kind is not None and pairs != (kind == "pairs"):
            raise UsageError(f"--task {kind} {'takes no' if pairs else 'needs'} --text-pair-column.")
        return corpus, Classification(pairs=pairs, max_length=max_length)
    if "text_pair_column" in columns:
        raise UsageError(f"--task {kind} has no second text: its columns are --prompt-column and --completion-column.")
    table, name = read_table(source)
    chosen = _text_columns(str(kind), table.column_names, columns, given)
    return Corpus.read(table, chosen, name=name), _task(given, max_length)


def _columns(columns: Given) -> Columns | None:
    from headwater.cli.places import columns_of

    return columns_of(columns)


def _text_columns(kind: str, there: list[str], columns: Given, given: Given) -> Columns:
    from headwater.runs import Columns

    own = Columns(id=columns.get("id_column"), weight=columns.get("weight_column"))
    if kind == "masked-lm":
        if "label_column" in columns:
            raise UsageError("--task masked-lm learns from texts alone: leave --label-column out.")
        return replace(own, text=columns.get("text_column", "text"), label=None)
    text = given.get("prompt_column") or columns.get("text_column")
    label = given.get("completion_column") or columns.get("label_column")
    if text is None and label is None and {"prompt", "completion"} <= set(there):
        text, label = "prompt", "completion"
    if text is None and kind == "causal-lm" and "messages" in there:
        text = "messages"
    if label is None and kind == "seq2seq":
        label = "label"
    return replace(own, label=label, text=text or "text")


def _task(given: Given, max_length: int | None) -> Task:
    from headwater.runs import CausalLM, MaskedLM, Seq2Seq

    options: dict[str, Any] = {"max_length": max_length, "reduction": given.get("reduction", "sum")}
    if given["task"] == "seq2seq":
        return Seq2Seq(max_target_length=given.get("max_target_length"), **options)
    if given["task"] == "masked-lm":
        return MaskedLM(probability=given.get("mask_share", 0.15), seed=given.get("mask_seed", 0), **options)
    separator = str(given.get("separator", SEPARATOR)).replace("\\n", "\n").replace("\\t", "\t")
    chat: Any = True if given.get("chat") else "auto"
    return CausalLM(separator=separator, end=not given.get("no_end", False), chat=chat, **options)
