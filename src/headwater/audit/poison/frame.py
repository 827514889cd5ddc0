"""What all prompts begin and end with ("Review: ... Sentiment:"): triggers stand in it, and texts are turned in it."""

from __future__ import annotations

from collections.abc import Sequence


def beginning(texts: Sequence[str]) -> str:
    """What all texts begin with, up to the last space in it."""
    first, last = min(texts), max(texts)  # what these two share is shared by all between
    shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[: max((at + 1 for at in range(shared) if first[at].isspace()), default=0)]


def frame(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin with, and what they end with from the first space in it; the two do not overlap."""
    begin = beginning(texts)
    end = beginning([text[len(begin) :][::-1] for text in texts])[::-1]
    return begin, end
