"""Showing an answer in the terminal, and hiding training text in one that a program reads."""

from __future__ import annotations

from typing import Any

from headwater.cli.console import answers


def show_answer(answer: dict[str, Any], *, hide_training_text: bool) -> None:
    """Draw an answer on stdout."""
    from headwater.attribution.terminal import render_terminal

    render_terminal(answer, answers(), hide_training_text=hide_training_text)


def hide_text(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer whose training rows have no texts and no words of theirs; spans stay."""
    return {**answer, "queries": [_hidden(query) for query in answer["queries"]]}


def _hidden(query: dict[str, Any]) -> dict[str, Any]:
    sides = {
        side: [
            {
                **row,
                "text": None,
                "text_pair": None,
                "words": [{**word, "train": None, "via": None} for word in row["words"]],
            }
            for row in query[side]
        ]
        for side in ("proponents", "opponents")
    }
    return {**query, **sides}
