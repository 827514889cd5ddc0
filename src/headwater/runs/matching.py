"""Is the corpus that Recorder was given what Trainer trains on? Row for row, as far as a data set can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from headwater.errors import DataError
from headwater.runs.corpus import Corpus
from headwater.runs.task import NO_TARGET, Encoding, Task, text_task

_LOOKED_AT = 64  # rows whose tokens are compared; all rows' labels are, where they stand in a column
_SAME_ROWS = "Give both the same rows in the same order."
_HOW_CLASSES = "Give both the same rows in the same order, and the task the max_length and pairs of the training."
_HOW = {
    "causal-lm": (
        "Give both the same rows in the same order (no packing), and the task what the training did: "
        "CausalLM(max_length=, separator=, end=, chat=)."
    ),
    "seq2seq": (
        "Give both the same rows in the same order, and the task what the training did: "
        "Seq2Seq(max_length=, max_target_length=)."
    ),
}


def check_dataset(
    dataset: Any, corpus: Corpus, targets: Sequence[int], task: Task, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Compare number of rows, labels, and the tokens of some rows. A stream passes: it cannot be looked at.

    `targets[i]` is the class number of row i. Raises DataError naming the first row that differs.
    """
    try:
        count = len(dataset)
    except TypeError:
        return
    if count != len(corpus):
        raise DataError(
            f"{corpus.name}: Recorder was given {len(corpus):,} rows, but Trainer trains on {count:,}. {_SAME_ROWS}"
            f"{' Packed rows cannot be explained.' if text_task(task) else ''}"
        )
    _check_labels(dataset, corpus, targets)
    step = max(1, count // _LOOKED_AT)
    for row in range(0, count, step):
        item = dataset[row]
        if not isinstance(item, Mapping) or "input_ids" not in item:
            return  # tokenized later, by a collator of the user's
        (encoding,) = task.encode(tokenizer, [corpus[row]])
        there = _without_padding(item)
        ours = _unmasked(encoding)
        if there not in (ours, encoding.input_ids):
            what = (
                f"Trainer's row has {len(there)} tokens, the task makes {len(ours)} of this text"
                f"{'' if len(there) != len(ours) else ', and other ones'}."
            )
            raise DataError.at(corpus.name, what, row=row + 1, fix=_HOW.get(task.kind, _HOW_CLASSES))
        _check_targets(item, encoding, corpus, row, task.kind)


def _unmasked(encoding: Encoding) -> list[int]:
    """The tokens of a text before some of them were masked: a training masks in its collator."""
    if encoding.targets is None or encoding.decoder_input_ids is not None:
        return encoding.input_ids
    return [
        token if target == NO_TARGET else target
        for token, target in zip(encoding.input_ids, encoding.targets, strict=True)
    ]


def _check_targets(item: Mapping[str, Any], encoding: Encoding, corpus: Corpus, row: int, kind: str) -> None:
    """Compare which tokens the loss counts, where Trainer's row says so: `labels`, or TRL's masks."""
    if encoding.targets is None or kind == "masked-lm":  # those are masked later, by a collator
        return
    masks = [item[name] for name in ("completion_mask", "assistant_masks") if item.get(name) is not None]
    labels = item.get("labels")
    labels = None if isinstance(labels, int) else labels  # Headwater's own rows keep their targets elsewhere
    if kind == "seq2seq":
        if labels is not None and [int(token) for token in labels if int(token) != NO_TARGET] != encoding.targets:
            what = "the tokens of Trainer's labels are not those that the task makes of this row's label."
            raise DataError.at(corpus.name, what, row=row + 1, fix=_HOW[kind])
        return
    if masks:
        there = [bool(int(value)) for value in _without_padding(item, masks[0])]
    elif labels is not None:
        there = [int(token) != NO_TARGET for token in _without_padding(item, labels)]
    else:
        return
    ours = [token != NO_TARGET for token in encoding.targets]
    if there[1:] != ours[1:]:  # the first token is never predicted
        what = f"Trainer's loss counts {sum(there)} tokens of this row, the task's {sum(ours)}."
        raise DataError.at(corpus.name, what, row=row + 1, fix=_HOW.get(kind, _SAME_ROWS))


def _check_labels(dataset: Any, corpus: Corpus, targets: Sequence[int]) -> None:
    columns = getattr(dataset, "column_names", None) or []
    column = next((name for name in ("labels", "label") if name in columns), None)
    if column is None:
        return
    for row, (label, target) in enumerate(zip(dataset.with_format(None)[column], targets, strict=True)):
        if isinstance(label, int) and label != target:
            what = f"its class is {target}, but Trainer's dataset has {label} in that place."
            raise DataError.at(corpus.name, what, row=row + 1, column=corpus.columns.label, fix=_SAME_ROWS)


def _without_padding(item: Mapping[str, Any], values: Any = None) -> list[int]:
    """The row's `input_ids`, or `values` beside them, where the attention mask is not 0."""
    ids = [int(token) for token in (item["input_ids"] if values is None else values)]
    mask = item.get("attention_mask")
    return ids if mask is None else [token for token, kept in zip(ids, mask, strict=True) if int(kept)]
