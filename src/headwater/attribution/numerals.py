"""Scores as people read them: three digits, one unit a query, sums that add up as printed."""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUS = "\u2212"  # as wide as a plus sign
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FINER = 4
_NAMES = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True)
class Scale:
    """How the scores of one query are printed: in units of 10**exponent, with `decimals` places."""

    exponent: int
    decimals: int

    @classmethod
    def of(cls, largest: float) -> Scale:
        """Three digits for the largest score; a power of ten only where it spares a row of zeros."""
        if not largest or not math.isfinite(largest):
            return cls(0, 2)
        magnitude = math.floor(math.log10(abs(largest)))
        exponent = 0 if -2 <= magnitude <= 4 else 3 * math.floor(magnitude / 3)
        return cls(exponent, max(0, 2 - (magnitude - exponent)))

    def finer(self, score: float) -> Scale:
        """The same unit with enough places for two digits of a smaller score, at most four places more."""
        if not score:
            return self
        wanted = Scale.of(score * 10.0**-self.exponent)
        more = wanted.decimals - wanted.exponent - 1 - self.decimals  # a wanted unit of its own counts as places
        return Scale(self.exponent, self.decimals + min(max(more, 0), _FINER))

    @property
    def unit(self) -> str:
        """ "×10⁻⁶", or nothing where scores are printed as they are."""
        return f"×10{str(self.exponent).translate(_SUPERSCRIPT)}" if self.exponent else ""

    def units(self, score: float) -> int:
        """The score as a whole number of the last printed digit."""
        return round(score * 10.0 ** (self.decimals - self.exponent))

    def plain(self, score: float) -> str:
        """The score in this unit for a program to read."""
        return f"{score * 10.0**-self.exponent:.6g}"

    def show(self, units: int) -> str:
        """Print a number of last digits, with its sign unless it is nothing."""
        sign = MINUS if units < 0 else "+" if units else ""
        return f"{sign}{abs(units) / 10**self.decimals:,.{self.decimals}f}"

    def __call__(self, score: float) -> str:
        """Print a score in this scale, with its sign."""
        return self.show(self.units(score))


def percent(share: float) -> str:
    """0.314 is "31%"; what would round to 0% or 100% and is not, keeps a digit."""
    value = 100 * share
    rounded = round(value)
    if rounded in (0, 100) and value != rounded:
        return "under 1%" if rounded == 0 else "over 99%"
    return f"{rounded}%"


def percentile(value: float) -> str:
    """99.95 stays, 100.0 is "100", 0.050 is "0.05"."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def probability(value: float) -> str:
    """Two digits, and never a "1.00" or "0.00" that is not one."""
    if 0.995 <= value < 1:
        return "0.99+" if value < 0.9995 else "0.999+"
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def number_word(count: int) -> str:
    """Small numbers as words."""
    return _NAMES[count] if 0 <= count < len(_NAMES) else f"{count:,}"


def plural(count: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
