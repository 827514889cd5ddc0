"""A result as JSON holds it: plain values, no NaN, and a note for queries that were left out."""

from __future__ import annotations

import json

import numpy as np

from headwater.evaluation.metrics.bootstrap import interval
from headwater.evaluation.result import Result


def test_a_result_is_plain_json_and_says_which_queries_have_no_value() -> None:
    values = np.array([0.25, np.nan, 0.75, 0.5])
    made = Result.of("lds", "tracin-we", interval(values), "50%", seconds=1.5, notes=["one seed"])
    plain = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert plain == {
        "metric": "lds",
        "method": "tracin-we",
        "value": 0.5,
        "low": made.low,
        "high": made.high,
        "queries": 3,
        "protocol": "50%",
        "seconds": 1.5,
        "notes": ["one seed", "1 of 4 queries have no value."],
    }
    assert 0.25 <= made.low < made.value < made.high <= 0.75


def test_what_is_not_known_is_null() -> None:
    plain = json.loads(json.dumps(Result.of("lds", "m", interval(np.array([np.nan])), "p").to_dict(), allow_nan=False))
    assert [plain[name] for name in ("value", "low", "high", "seconds")] == [None] * 4
    assert plain["notes"] == ["1 of 1 queries have no value."]
