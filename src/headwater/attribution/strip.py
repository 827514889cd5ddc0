"""The strip that maps a whole text: where its lit words stand, also those that are folded away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.attribution.light import Mark, places

WIDTH = 150  # units across (the lines' pathLength): about three pixels each


@dataclass(frozen=True, slots=True)
class Strip:
    """Stretches [start, end) in units of the strip's width: lit words that push toward, and away."""

    toward: tuple[tuple[int, int], ...]
    away: tuple[tuple[int, int], ...]

    @staticmethod
    def dashes(stretches: tuple[tuple[int, int], ...]) -> str:
        """The stretches as dashes of a line across the strip: "0 12 4 30 4 999", nothing, gap, dash, gap, dash, gap."""
        at, lengths = 0, [0]
        for start, end in stretches:
            lengths += [start - at, end - start]
            at = end
        return " ".join(map(str, [*lengths, 999]))


def strip(texts: Sequence[str], lit: Sequence[Mark]) -> Strip:
    """Map texts, laid end to end."""
    total = max(1, sum(map(len, texts)))
    ticks: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    offset = 0
    for part, text in enumerate(texts):
        for place in places(lit, part, len(text)):
            ticks[place.score >= 0].append(_scaled(offset + place.start, offset + place.end, total))
        offset += len(text)
    return Strip(*map(_joined, (ticks[True], ticks[False])))


def _joined(stretches: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for start, end in stretches:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def _scaled(start: int, end: int, total: int) -> tuple[int, int]:
    first = min(start * WIDTH // total, WIDTH - 1)
    return first, max(first + 1, end * WIDTH // total)
