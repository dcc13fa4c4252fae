"""The OpenAPI document: complete, described, and true (schemathesis asks the running API)."""

import subprocess
import sys

import pytest

from tenantry.control.api.v1 import api

from .conftest import Live

SCHEMA = api.get_openapi_schema()
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, methods in SCHEMA["paths"].items()
    for method, operation in methods.items()
]
WITHOUT_TOKEN = {"POST /api/v1/nodes/join"}  # the token is in the body
EXAMPLES = 8  # for each operation: a smoke test


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_an_operation_is_described(name: str, operation: dict[str, object]) -> None:
    assert operation.get("description"), name
    assert operation.get("tags"), name
    assert operation.get("security") or name in WITHOUT_TOKEN, name
    responses = operation["responses"]
    assert isinstance(responses, dict)
    assert {"401", "422"} <= {str(status) for status in responses}


def test_no_input_takes_unknown_keys() -> None:
    inputs = [name for name in SCHEMA["components"]["schemas"] if name.endswith(("Input", "Patch", "Nothing"))]
    assert len(inputs) >= 8
    for name in inputs:
        assert SCHEMA["components"]["schemas"][name]["additionalProperties"] is False, name


@pytest.mark.timeout(300)
def test_the_running_api_keeps_to_its_document(live: Live, project: str) -> None:
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"),
        *(f"{live.url}/api/v1/openapi.json", "--checks", checks, "--max-examples", str(EXAMPLES), "--seed", "1"),
        *("--phases", "examples,fuzzing", "--request-timeout", "10", "--no-color"),
        *("--exclude-path", "/api/v1/events", "--exclude-path", "/api/v1/sites/{slug}/convergence"),
        *("--exclude-path-regex", "logs?$"),
        *("--exclude-path", "/api/v1/changes/{revision}/convergence"),
        *("--exclude-path", "/api/v1/tokens/{id}"),  # else it revokes its own token
        *(word for name, value in live.headers.items() for word in ("--header", f"{name}: {value}")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=live.home)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
