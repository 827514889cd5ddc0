"""A proof as one self-contained HTML page: verdicts, arms, queries fixed and broken, differences by label and source.

Of a language model the queries are texts: their loss a token under every arm.

No script, nothing fetched, all text escaped. Same proof, same bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from headwater.attribution.numerals import MINUS, plural
from headwater.attribution.render import TEMPLATES, environment_of, headwater_version
from headwater.attribution.trial import trial_view
from headwater.remedies.arms import UNTOUCHED, about
from headwater.remedies.exam import Query
from headwater.remedies.measure import TOKENS
from headwater.remedies.proof import MOST_SHOWN, Proof, sentence

SHOWN = 12  # queries fixed on the page, and as many broken; proof.json has more

PAGES = Path(__file__).parent / "templates"
_VERBS = {"delete": "deleted", "relabel": "relabelled", "edit": "edited", "weight": "weighted anew"}


def render_page(proof: Proof, lineage: Mapping[str, Any], *, command: str | None = None) -> str:
    """Draw the page; `lineage` is that of the repair, `command` is what makes it again."""
    title = f"Did the repair help? · {lineage['run']['name']}"
    told = proof_context(proof, lineage)
    template = _templates().get_template("proof.html.j2")
    return template.render(**told, title=title, command=command, style=_style(), version=headwater_version())


def proof_context(proof: Proof, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates of a proof read, whatever frame they stand in."""
    shown = [*proof.broken[:SHOWN], *proof.fixed[:SHOWN]]
    return {
        "proof": proof,
        "sentence": sentence(proof),
        "applied": applied(lineage["applied"]),
        "before": lineage["run"]["rows"],
        "after": lineage["corpus"]["rows"],
        "view": trial_view(_trial(proof, len(lineage["deleted"]), shown)),
        "texts": shown if proof.measure is TOKENS else [],
        "turned": [proof.measure.broken] * len(proof.broken[:SHOWN]) + [proof.measure.fixed] * len(proof.fixed[:SHOWN]),
        "hidden": _hidden(proof, len(shown)),
        "untouched_by": {
            kind: [(value, each[UNTOUCHED]) for value, each in values.items()] for kind, values in proof.parts.items()
        },
        "cited": proof.cited[:SHOWN],
    }


def applied(counts: dict[str, int]) -> str:
    """What a plan does, in words: `12 rows deleted, 60 relabelled`."""
    if not counts:
        return "nothing changed"
    told = [f"{count:,} {_VERBS[action]}" for action, count in counts.items()]
    first = next(iter(counts.values()))
    told[0] = told[0].replace(f"{first:,} ", f"{plural(first, 'row')} ", 1)
    return ", ".join(told)


def signed(value: float, unit: str) -> str:
    """A difference with its sign: of `points` a tenth of a per cent, of `nats` three digits."""
    digits = 1 if unit == "points" else 3
    number = round(100 * value if unit == "points" else value, digits)
    sign = MINUS if number < 0 else "+" if number > 0 else ""
    return f"{sign}{abs(number):.{digits}f}"


FILTERS: dict[str, Callable[..., Any]] = {
    "plural": plural,
    "signed": signed,
    "about": about,
    "exact": lambda value: repr(float(value)),
    "nats": lambda probability: f"{-math.log(max(probability, sys.float_info.min)):.2f}",
}
"""What the templates of a proof need beside those of answers."""


def _hidden(proof: Proof, shown: int) -> str:
    """What the list of queries leaves out."""
    found = proof.against[UNTOUCHED]
    more = found.fixed + found.broken - shown
    if more <= 0:
        return ""
    words = proof.measure
    return (
        f"The {shown} that changed most are shown; proof.json has up to {MOST_SHOWN} {words.fixed} and as many "
        f"{words.broken}."
    )


def _trial(proof: Proof, removed: int, shown: list[Query]) -> dict[str, Any]:
    by = proof.measure.decides
    return {
        "removed": removed,
        "arms": [
            {"name": arm.name, by: list(arm.loss if by == "loss" else arm.accuracy), "rows": arm.rows}
            for arm in proof.arms
        ],
        "queries": [
            {
                "text": query.text,
                "label": query.label,
                **{
                    "before" if name == UNTOUCHED else name: {
                        "predicted": query.said[name],
                        "probability": query.probability[name],
                    }
                    for name in query.said
                },
            }
            for query in shown
            if proof.measure is not TOKENS
        ],
        "verdict": "",
    }


@cache
def _templates() -> Environment:
    environment = environment_of(PAGES, TEMPLATES)
    environment.filters |= FILTERS
    return environment


@cache
def _style() -> Markup:
    sheets = [*(TEMPLATES / name for name in ("base.css", "page.css", "trial.css")), PAGES / "proof.css"]
    return Markup("\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets))
