"""A proof as its file holds it, read back: for pages that are drawn long after the retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import RunError
from headwater.files import read_json
from headwater.remedies.differences import Difference, Interval
from headwater.remedies.exam import Query
from headwater.remedies.fix import LINEAGE, PROOF
from headwater.remedies.measure import CLASSES, MEASURES, Measure
from headwater.remedies.proof import ArmOutcome, Proof


def read_proof(folder: Path) -> tuple[Proof, dict[str, Any]]:
    """Return the proof and the lineage of RUN2/fix. Raises RunError where they are not there, or damaged."""
    if not (folder / PROOF).is_file():
        raise RunError(f"{folder}: holds no proof. Make one: headwater fix RUN PLAN --out RUN2 --retrain.")
    try:
        return _proof(read_json(folder / PROOF)), read_json(folder / LINEAGE)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / PROOF}: damaged ({type(error).__name__}: {error}).") from None


def _proof(saved: Mapping[str, Any]) -> Proof:
    measure = MEASURES[saved["measure"]["name"]] if "measure" in saved else CLASSES  # older proofs are of classifiers
    order = [str(each["name"]) for each in saved["arms"]]  # files sort their keys; pages tell the arms in their order
    return Proof(
        arms=tuple(_arm(each) for each in saved["arms"]),
        against={name: _difference(each, measure) for name, each in _ordered(saved["differences"], order)},
        parts={
            kind: {
                value: {name: _difference(each, measure) for name, each in _ordered(against, order)}
                for value, against in values.items()
            }
            for kind, values in saved["by"].items()
        },
        fixed=tuple(_query(each, order) for each in saved["fixed"]),
        broken=tuple(_query(each, order) for each in saved["broken"]),
        cited=tuple(_query(each, order) for each in saved["cited"]),
        seeds=tuple(saved["seeds"]),
        asked_seeds=saved["asked_seeds"],
        test=saved["test"]["name"],
        test_rows=saved["test"]["rows"],
        left_out=saved["test"]["left_out"],
        rows=saved["training_rows"]["used"],
        of=saved["training_rows"]["of"],
        notes=tuple(saved["notes"]),
        moved=tuple((int(row), float(change)) for row, change in saved.get("loss_changes", ())),
        measure=measure,
    )


def _ordered(saved: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, saved[name]) for name in order if name in saved]


def _arm(saved: Mapping[str, Any]) -> ArmOutcome:
    numbers = tuple(saved["accuracy"]), tuple(saved["loss"])
    return ArmOutcome(saved["name"], saved["rows"], dict(saved["changed"]), *numbers)


def _difference(saved: Mapping[str, Any], measure: Measure) -> Difference:
    return Difference(
        accuracy=Interval(**saved["accuracy"]),
        loss=Interval(**saved["loss"]),
        fixed=saved["fixed"],
        broken=saved["broken"],
        p=saved["p"],
        rows=saved["rows"],
        seeds=saved["seeds"],
        measure=measure,
    )


def _query(saved: Mapping[str, Any], order: Sequence[str]) -> Query:
    arms = dict(_ordered(saved["arms"], order))
    said, chance, right = (
        {name: each[key] for name, each in arms.items()} for key in ("predicted", "probability", "right")
    )
    return Query(saved["row"], saved["text"], saved["label"], said, chance, right)
