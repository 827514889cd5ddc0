"""Groups of layers by depth, and what is asked at each.

TracIn and the cosine at the word embeddings are exact, from the index of token gradients; all else reads one set of
layer gradients, projected alike: a group's numbers are the same in it as in a set of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.evaluation.candidates import Candidate
from headwater.evaluation.first_vs_last.measured import Pair
from headwater.gradients.layers import Projector
from headwater.gradients.layers.patterns import transformer_blocks
from headwater.models.load import load_model
from headwater.runs import Run

FIRST, LAST, ALL, MIDDLE = "word-embeddings", "last", "all", "between"
LEXICAL = "tfidf-label"
BASELINES = ("bm25-label", LEXICAL, "random")
_TOKENS: Mapping[str, dict[str, Any]] = {"tracin": {}, "gradient-cosine": {"normalize": "both"}}
_BLOCKS = 4  # fewer cannot be quartered


def layer_groups(run: Run) -> dict[str, str]:
    """Names of the groups, first to last, then all together; and the pattern of each."""
    blocks = transformer_blocks(load_model(run.checkpoints[-1].path, run.task.auto))
    inner = (
        {f"quarter:{number}": f"quarter:{number}" for number in range(1, _BLOCKS + 1)}
        if len(blocks) >= _BLOCKS
        else {MIDDLE: f"{ALL},!{FIRST},!{LAST}"}
    )
    return {FIRST: FIRST, **inner, LAST: LAST, ALL: ALL}


def at_layers(methods: Sequence[str], groups: Mapping[str, str], *, dim: int) -> list[Candidate]:
    """Every method at every group of layers. Raises UsageError for a method that reads no layers."""
    projector = Projector(dim=dim)
    made = []
    for method in methods:
        for group, pattern in groups.items():
            if group == FIRST and method in _TOKENS:
                made.append(Candidate(named(method, group), "tracin-we", dict(_TOKENS[method])))
                continue
            Candidate.parse(f"{method}/layers={ALL}")
            made.append(Candidate(named(method, group), method, {"layers": pattern}, indexed=ALL, projector=projector))
    return made


def named(method: str, group: str) -> str:
    """The label of a method at a group of layers."""
    return f"{method} {group}"


def pairs_of(methods: Sequence[str], groups: Mapping[str, str]) -> list[Pair]:
    """What is compared: the first layer with the last, with all, with those between; and with words alone."""
    inner = [group for group in groups if group not in (FIRST, LAST, ALL)]
    found = [(named(method, FIRST), named(method, other)) for method in methods for other in (LAST, ALL, *inner)]
    found += [(named(method, ALL), named(method, LAST)) for method in methods]
    return [*found, *((named(method, FIRST), LEXICAL) for method in methods)]
