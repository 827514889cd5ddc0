"""From a plan to a change of one corpus: every row is found and compared before anything is changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.errors import DataError
from headwater.remedies.change import Change, label_of
from headwater.remedies.choose import chosen
from headwater.remedies.plan import Plan, Repair
from headwater.runs.conversation import is_conversation_type
from headwater.runs.corpus import Corpus, Label

_FINGERPRINT = re.compile("[0-9a-f]{32}")


def planned(plan: Plan, corpus: Corpus, accept: Sequence[str] = (), *, classes: bool = True) -> Change:
    """What the plan changes in this corpus (see `chosen` for `accept`); `keep` changes nothing.

    `classes`: labels are classes, so that none may be new and none may be left without rows. Otherwise they are texts
    (completions; of conversations the assistant's last turn): `relabel` sets them, and `edit` may, beside other texts.

    Raises DataError naming file and line: a row that is not there, an id and a row that disagree, a hash or `was`
    that is not the row's, two actions on one row, a label of another kind, a column that holds no text, a change
    that would leave no rows or none of a label; UsageError for an `accept` that takes nothing.
    """
    _check_corpus(plan, corpus)
    change = _gathered(plan, corpus, chosen(plan, accept), classes)
    _check_rest(plan, corpus, change, classes)
    return change


def kept_rows(plan: Plan, corpus: Corpus) -> list[int]:
    """Rows that audits shall be silent about: accepted as `keep`, and unchanged since.

    A row whose hash is another one by now is left out, as is one that is gone.
    """
    found = []
    for repair in plan.repairs:
        if repair.action != "keep" or repair.status != "accepted":
            continue
        try:
            found.append(_row_of(plan, repair, corpus, _ids(corpus)))
        except DataError:
            continue
    return sorted(set(found))


def _check_corpus(plan: Plan, corpus: Corpus) -> None:
    named = None if plan.header is None else plan.header.corpus
    if named is not None and _FINGERPRINT.fullmatch(named) and named != corpus.fingerprint:
        raise DataError(
            f"{plan.name}, line 1: this plan is for another corpus (fingerprint {named[:8]}, not "
            f"{corpus.fingerprint[:8]} as {corpus.name}). Give the run that it was made for."
        )


def _gathered(plan: Plan, corpus: Corpus, repairs: Sequence[Repair], classes: bool) -> Change:
    delete: set[int] = set()
    labels: dict[int, Label] = {}
    texts: dict[int, Mapping[str, str]] = {}
    weights: dict[int, float] = {}
    done: dict[int, Repair] = {}
    ids = _ids(corpus)
    for repair in repairs:
        row = _row_of(plan, repair, corpus, ids)
        if row in done:
            first = f"line {done[row].line}" if done[row].line else "an earlier one"
            raise DataError(
                f"{plan.where(repair)}: {repair.place} is to be {_past(repair)}, but {first} says it is to be "
                f"{_past(done[row])}. Accept one of them."
            )
        done[row] = repair
        if repair.action == "delete":
            delete.add(row)
        elif repair.action == "relabel":
            labels[row] = new_label(plan.where(repair), repair, corpus, row, classes=classes)
        elif repair.action == "edit":
            texts[row] = new_texts(plan.where(repair), repair, corpus, classes=classes)
        elif repair.action == "weight":
            weights[row] = float(repair.weight or 0.0)
    return Change(frozenset(delete), labels, texts, weights)


def _past(repair: Repair) -> str:
    words = {"delete": "deleted", "relabel": f"relabelled {repair.label!r}", "edit": "edited", "keep": "kept"}
    return words.get(repair.action, f"given weight {repair.weight}")


def _ids(corpus: Corpus) -> dict[Any, int]:
    name = corpus.columns.id
    return {} if name is None else {value: row for row, value in enumerate(corpus.table.column(name).to_pylist())}


def _row_of(plan: Plan, repair: Repair, corpus: Corpus, ids: Mapping[Any, int]) -> int:
    where, row = plan.where(repair), repair.row
    if repair.id is not None:
        if not ids:
            raise DataError(f'{where}: {corpus.name} has no column of ids. Give "row", counted from 0.')
        if repair.id not in ids:
            raise DataError(f"{where}: no row of {corpus.name} has the id {repair.id!r}.")
        if row is not None and row != ids[repair.id]:
            raise DataError(f"{where}: the id {repair.id!r} is row {ids[repair.id]:,}, not row {row:,} (from 0).")
        row = ids[repair.id]
    if row is None or row >= len(corpus):
        raise DataError(f"{where}: there is no row {row} (counted from 0) among the {len(corpus):,} of {corpus.name}.")
    _compare(where, repair, corpus, row)
    return row


def _compare(where: str, repair: Repair, corpus: Corpus, row: int) -> None:
    changed = f"{repair.place} is not what it was when the plan was made"
    fix = "Make the plan anew, or give the run that it was made for."
    if repair.hash is not None and repair.hash != corpus.hashes[row]:
        raise DataError(f"{where}: {changed}: its hash is {corpus.hashes[row][:8]}, not {repair.hash[:8]}. {fix}")
    was = repair.was or {}
    label = label_of(corpus, row)
    if was.get("label") is not None and str(was["label"]) != str(label):
        raise DataError(f"{where}: {changed}: its label is {label!r}, not {was['label']!r}. {fix}")
    for column, text in (was.get("fields") or {}).items():
        if column not in corpus.table.column_names or corpus.table.column(column)[row].as_py() != text:
            raise DataError(f"{where}: {changed}: column {column!r} holds another text. {fix}")


def new_label(where: str, repair: Repair, corpus: Corpus, row: int, *, classes: bool) -> Label:
    """The label that a relabelling sets, of the corpus's kind. Raises DataError, naming `where`, where it cannot be."""
    old, new = label_of(corpus, row), repair.label
    if new is None or (old is None and corpus.columns.label is None and not _conversations(corpus)):
        raise DataError(f"{where}: {corpus.name} has no labels to change.")
    if old is None:
        raise DataError(f"{where}: {repair.place} does not end in a turn of the assistant to change.")
    if not classes and not str(new).strip():
        raise DataError(f"{where}: the new completion is blank. Delete the row instead.")
    if isinstance(old, int) and isinstance(new, str):
        try:
            new = int(new)
        except ValueError:
            raise DataError(
                f"{where}: the label {new!r} is not a whole number, as the labels of {corpus.name} are."
            ) from None
    return new if isinstance(old, int) else str(new)


def new_texts(where: str, repair: Repair, corpus: Corpus, *, classes: bool) -> Mapping[str, str]:
    """The texts that an edit sets. Raises DataError, naming `where`: a column that holds none, a blank text."""
    texts = repair.fields or {}
    open_to = editable(corpus, classes=classes)
    for column, text in texts.items():
        if column == corpus.columns.text and column not in open_to:
            raise DataError(
                f"{where}: a column of conversations cannot be edited. Its last turn, the assistant's, is "
                "changed by relabel; or delete the row."
            )
        if column not in open_to:
            raise DataError(
                f"{where}: column {column!r} cannot be edited; the texts are {', '.join(open_to)}. "
                "Labels are changed by relabel."
            )
        if not text.strip():
            raise DataError(f"{where}: the new text of column {column!r} is blank. Delete the row instead.")
    return texts


def editable(corpus: Corpus, *, classes: bool) -> list[str]:
    """The columns that `edit` may change: texts that are no conversations, and completions; not labels of classes."""
    names = [] if _conversations(corpus) else [corpus.columns.text]
    names += [] if corpus.columns.text_pair is None else [corpus.columns.text_pair]
    return names if classes or corpus.columns.label is None else [*names, corpus.columns.label]


def _conversations(corpus: Corpus) -> bool:
    return is_conversation_type(corpus.table.schema.field(corpus.columns.text).type)


def _check_rest(plan: Plan, corpus: Corpus, change: Change, classes: bool) -> None:
    """A training needs every label that it had; a corpus needs rows."""
    gone = change.delete | {row for row, weight in change.weights.items() if weight == 0}
    if len(gone) == len(corpus):
        raise DataError(f"{plan.name}: would leave none of the {len(corpus):,} rows of {corpus.name}. Accept fewer.")
    if corpus.columns.label is None or not classes:
        return
    before: list[Label] = corpus.table.column(corpus.columns.label).to_pylist()
    known = {str(label) for label in before}
    after = Counter(str(change.labels.get(row, label)) for row, label in enumerate(before) if row not in gone)
    new = sorted(set(after) - known)
    if new:
        repair = next(r for r in plan.repairs if str(r.label) == new[0])
        there = ", ".join(sorted(known)[:12])
        raise DataError(f"{plan.where(repair)}: no row is labelled {new[0]!r} so far. The labels are {there}.")
    lost = sorted(known - set(after))
    if lost:
        raise DataError(f"{plan.name}: would leave no row labelled {lost[0]!r}. Accept fewer.")
