"""Classes and texts as a corpus spells them: "negative" may be 0 in its rows, a line may end in CR LF."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from headwater.runs.corpus import Label
from headwater.runs.run import Run

_LINE_END = re.compile("\r\n|\r|\n")


def spelled(run: Run, name: str) -> Label:
    """Return a class of the model as the corpus spells it; its name where no row carries it."""
    return _among(run.corpus.label_names(), run, name)


def class_labels(run: Run) -> list[str]:
    """Return the labels that a row can be given, in the order in which the model names its classes; none of a language
    model."""
    labels = run.corpus.label_names() if run.label2id else []
    return [str(_among(labels, run, name)) for name in run.label2id]


def _among(labels: Sequence[Label], run: Run, name: str) -> Label:
    number = str(run.label2id.get(name))  # rows may carry this, unless it is a name itself
    for spelling in (name,) if number in run.label2id else (name, number):
        for label in labels:
            if str(label) == spelling:
                return label
    return name


def with_line_ends_of(held: str, text: str) -> str:
    """Return a text that was typed into a field, which knows "\\n" alone, with the line ends of the one that it mends.

    Where there are as many lines as before each keeps its own end; otherwise all get the one that is most frequent.
    """
    ends = _LINE_END.findall(held)
    if "\r" in text or not ends:
        return text
    first, *rest = text.split("\n")
    if len(ends) != len(rest):
        ends = [Counter(ends).most_common(1)[0][0]] * len(rest)
    return first + "".join(end + line for end, line in zip(ends, rest, strict=True))
