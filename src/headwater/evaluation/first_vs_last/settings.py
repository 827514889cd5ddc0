"""What the comparison of layers can be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from headwater.attribution.aggregate import Aggregation
from headwater.errors import UsageError

Embeddings = Literal["trained", "frozen"]
PROTOCOLS = ("noise", "lds", "filtering", "deletion")
"""In the order in which they are done: what costs least comes first."""
HOWS: tuple[Aggregation, ...] = get_args(Aggregation)


def _setting(default: Any, sentence: str) -> Any:
    return field(default=default, metadata={"help": sentence})


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Settings of `first_vs_last`. Raises UsageError where a value makes no sense."""

    methods: tuple[str, ...] = _setting(
        ("tracin", "gradient-cosine", "datainf"), "Methods over layers that are asked at every group of layers."
    )
    protocols: tuple[str, ...] = _setting(PROTOCOLS, f"What is measured: {', '.join(PROTOCOLS)}.")
    embeddings: Literal["both", "trained", "frozen"] = _setting(
        "both", "Study the training with its word embeddings trained, frozen, or both."
    )
    subsets: int = _setting(60, "lds: retrain on so many random halves of the rows.")
    seeds: int = _setting(2, "lds: retrain each half with so many seeds.")
    deletion_methods: tuple[str, ...] = _setting(
        ("tracin",), "deletion: methods that are asked at every group of layers; it costs the most."
    )
    deletion_queries: int = _setting(10, "deletion: explain so many of the queries.")
    deletion_seeds: int = _setting(1, "deletion: retrain each set of rows with so many seeds.")
    grid: tuple[int, ...] | None = _setting(None, "deletion: how many rows are removed; 2%, 5% and 10% if unset.")
    draws: int = _setting(3, "deletion, filtering: so many random removals as the control.")
    flips: float = _setting(0.2, "noise, filtering: flip the labels of this part of the training rows.")
    filter_share: float = _setting(0.3, "filtering: drop this part of the rows, those with the lowest scores.")
    filter_seeds: int = _setting(3, "filtering: retrain what is left with so many seeds.")
    dim: int = _setting(
        32, "Project each side of a layer's gradient to so many numbers (exact: the word "
        "embeddings of TracIn and cosine, and layers of at most its square, such as a classifier's last)."
    )  # fmt: skip
    retrains: int | None = _setting(None, "Use at most so many retrainings in all; deletion gives way.")
    processes: int | None = _setting(None, "Retrain in so many processes; one a core, where that pays, if unset.")
    arithmetic: Literal["exact", "quick"] = _setting("exact", "Retrain as `train` does, or (textcnn) faster.")
    seed: int = _setting(0, "Draws queries, flips, subsets and random rows; the seed of the intervals.")

    def __post_init__(self) -> None:
        for name in ("subsets", "seeds", "deletion_queries", "deletion_seeds", "draws", "filter_seeds", "dim"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("flips", "filter_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} is a part of the rows, above 0 and below 1, not {getattr(self, name)}.")
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise UsageError(f"first-vs-last has no protocol {name!r}. There are: {', '.join(PROTOCOLS)}.")
        if self.embeddings not in ("both", "trained", "frozen"):
            raise UsageError(f"embeddings {self.embeddings!r} is not one of both, trained, frozen.")
        if not self.methods or not set(self.deletion_methods) <= set(self.methods):
            raise UsageError("name at least one method, and for deletion only such as are among the methods.")

    def sizes(self, rows: int) -> tuple[int, ...]:
        """How many rows a deletion removes at each point of its curve."""
        return self.grid or tuple(sorted({max(1, round(share * rows)) for share in (0.02, 0.05, 0.1)}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
