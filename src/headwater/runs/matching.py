"""Is the corpus that Recorder was given what Trainer trains on? Row for row, as far as a data set can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from headwater.errors import DataError
from headwater.runs.corpus import Corpus
from headwater.runs.task import Task

_LOOKED_AT = 64  # rows whose tokens are compared; all rows' labels are, where they stand in a column
_SAME_ROWS = "Give both the same rows in the same order."


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
        )
    _check_labels(dataset, corpus, targets)
    step = max(1, count // _LOOKED_AT)
    for row in range(0, count, step):
        item = dataset[row]
        if not isinstance(item, Mapping) or "input_ids" not in item:
            return  # tokenized later, by a collator of the user's
        (encoding,) = task.encode(tokenizer, [corpus[row]])
        there = _without_padding(item)
        if there != encoding.input_ids:
            what = (
                f"Trainer's row has {len(there)} tokens, the task makes {len(encoding.input_ids)} of this text"
                f"{'' if len(there) != len(encoding.input_ids) else ', and other ones'}."
            )
            fix = "Give both the same rows in the same order, and the task the max_length and pairs of the training."
            raise DataError.at(corpus.name, what, row=row + 1, fix=fix)


def _check_labels(dataset: Any, corpus: Corpus, targets: Sequence[int]) -> None:
    columns = getattr(dataset, "column_names", None) or []
    column = next((name for name in ("labels", "label") if name in columns), None)
    if column is None:
        return
    for row, (label, target) in enumerate(zip(dataset.with_format(None)[column], targets, strict=True)):
        if isinstance(label, int) and label != target:
            what = f"its class is {target}, but Trainer's dataset has {label} in that place."
            raise DataError.at(corpus.name, what, row=row + 1, column=corpus.columns.label, fix=_SAME_ROWS)


def _without_padding(item: Mapping[str, Any]) -> list[int]:
    ids = [int(token) for token in item["input_ids"]]
    mask = item.get("attention_mask")
    return ids if mask is None else [token for token, kept in zip(ids, mask, strict=True) if int(kept)]
