"""The API under generated input, made after its own description: never a fault of the server's."""

from pathlib import Path

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

import headwater as hw
from headwater.web.app import make_api
from headwater.web.state import Workbench

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


def test_no_generated_request_is_a_fault_of_the_server(copied_run: Path) -> None:
    index = hw.Index.open(copied_run / "index")
    workbench = Workbench(index, index.run.eval_corpus)
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", make_api(workbench))
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.label == "POST /api/jobs":  # it starts trainings
            continue
        answers = seen.setdefault(operation.path, set())

        @given(case=operation.as_strategy())
        @settings(
            max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def fuzz(case: schemathesis.Case) -> None:
            response = case.call()
            case.validate_response(response, checks=CHECKS)
            answers.add(response.status_code)  # noqa: B023 - called at once

        fuzz()
    workbench.worker.close()
    assert {"/api/predictions", "/api/why", "/api/why/removal"} <= set(seen)
    assert 200 in set().union(*seen.values()), "no generated request was ever right"


def test_the_description_is_whole_and_names_what_each_refuses(client: TestClient) -> None:
    told = client.get("/api/openapi.json").json()
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description") or operation.get("summary"), (method, path)
            assert "422" in operation["responses"] or not operation.get("parameters"), (method, path)


@pytest.mark.parametrize(
    "query",
    [
        "row=0&method=tracin-we&method=bm25&method=random",
        "row=0&method=nobody",
        "row=0&method=logra",
        "text=%00&method=%00",
        "text=",
        "row=0&marked=60",
        "row=0&marked=-1",
        "row=9007199254740993",
    ],
)
def test_questions_at_the_edge_are_refused_and_no_fault(client: TestClient, query: str) -> None:
    answer = client.get(f"/api/why/removal?{query}")
    assert answer.status_code in (409, 422) and len(answer.json()["error"]) > 10
