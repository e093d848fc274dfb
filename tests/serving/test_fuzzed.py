"""The server against its own OpenAPI document, by schemathesis."""

import itertools

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi import checks


@pytest.fixture(scope="module")
def operations(models, serve):
    """What the server offers, by method and path."""
    url = serve(models, tokens=2, body_bytes=1 << 20)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = [each.ok() for each in schema.get_all_operations()]
    return {each.label: each for each in found}


pytestmark = pytest.mark.slow

POSITIVE, NEGATIVE = schemathesis.GenerationMode
TAKING = ["POST /v1/completions", "POST /v1/chat/completions", "POST /classify"]
ASKING = [
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /healthz",
    "GET /metrics",
]


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *itertools.product(TAKING, (POSITIVE, NEGATIVE)),
        *((label, POSITIVE) for label in ASKING),
    ],
)
def test_the_server_does_what_it_says(operations, label, mode):
    """Whatever comes, it fails at nothing, answers as it describes, and takes nothing
    that its description forbids."""
    operation = operations[label]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def fuzz(case):
        # What is well formed may still be too long for the model, or of words that
        # it does not know.
        case.call_and_validate(
            timeout=60, excluded_checks=[checks.positive_data_acceptance]
        )

    fuzz()
    assert operations.keys() == {*TAKING, *ASKING}
