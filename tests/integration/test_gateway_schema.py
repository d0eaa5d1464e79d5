"""The gateway against its own OpenAPI document: requests that fit it and requests that do not, made by schemathesis.

python -m pytest tests/integration/test_gateway_schema.py --rest-cases 2000
"""

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.random_models import make_model
from tests.support.services import Service, inference_service, running

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
SEQUENCES = {"sequences": 2, "block_length": 4}
INTERACTIONS = "POST /v1/analysis/interactions"
OF_INTERACTIONS: dict[str, Any] = {**SEQUENCES, "layers": [-1]}
SEARCH: dict[str, Any] = {"pair_count": 1, "steps": 1, "minimality": False, "method": "eap"}
IDS = ("{model_id}", "{capture_id}", "{dictionary_id}")
"""Any text is one, so that no request for what it names can be wrong; it takes long to find that out."""
MOST_TOKENS = 3
MOST_CHOICES = 3
"""Cases ask for numbers of any size; what a test computes is bounded, and what is refused is not changed."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    """Its own services, since cases may free models and remove hooks."""
    folder: Path = make_model("llama", tmp_path_factory.mktemp("schema") / "llama")
    with (
        inference_service(folder) as inference,
        running("neuroscope_analysis", "--port", "0", "--inference", inference.target) as analysis,
        running(
            "neuroscope_gateway", "--port", "0", "--inference", inference.target, "--analysis", analysis.target
        ) as service,
    ):
        yield service


def bounded(body: Any) -> Any:
    """The body with fewer tokens, choices and sequences, where it asks for too many or leaves it open."""
    if isinstance(body, dict) and body.keys() & SEQUENCES.keys():
        return body | {name: most for name, most in SEQUENCES.items() if _is_beyond(body.get(name, 0), most)}
    if isinstance(body, dict) and body.keys() & {"dataset", "pairs"}:
        return body | {name: least for name, least in SEARCH.items() if type(body.get(name)) is type(least)}
    if not isinstance(body, dict) or not body.keys() & {"messages", "prompt", "input"}:
        return body
    named = [name for name in LIMITS if isinstance(body.get(name), int) and MOST_TOKENS < body[name] < 2**31]
    few = dict.fromkeys(named, MOST_TOKENS)
    if not any(body.get(name) is not None for name in LIMITS):
        few["max_output_tokens" if "input" in body else "max_tokens"] = MOST_TOKENS
    if isinstance(body.get("n"), int) and MOST_CHOICES < body["n"] <= 128:
        few["n"] = MOST_CHOICES
    return body | few


def _is_beyond(value: Any, most: int) -> bool:
    """Whether a good number is beyond what a test computes; 0 is the default, which is."""
    return type(value) is int and (value == 0 or most < value <= 4096)


def send(operation: Any, mode: GenerationMode, count: int) -> list[int]:
    """The statuses of so many cases of one operation."""
    statuses: list[int] = []
    is_plain = "{" not in operation.label

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if operation.label == INTERACTIONS and isinstance(case.body, dict):
            case.body = OF_INTERACTIONS | case.body  # every path of every layer, where nothing is said
        case.body = bounded(case.body)
        response = case.call(timeout=60)
        statuses.append(response.status_code)
        # A list without entries, as a query, is nothing at all, and so nothing wrong.
        is_empty = is_plain and not response.request.body and "?" not in str(response.request.url)
        is_wrong = mode is GenerationMode.NEGATIVE and not is_empty
        case.validate_response(response, checks=(*CHECKS, negative_data_rejection) if is_wrong else CHECKS)

    with suppress(Unsatisfiable):  # where nothing is asked for, nothing can be wrong
        run()
    return statuses


def test_every_answer_is_one_that_the_document_has(gateway: Service, request: pytest.FixtureRequest) -> None:
    """No case is answered with a status, a type, a header or an object that is not in the document; none with 5xx."""
    schema = schemathesis.openapi.from_url(f"{gateway.target}/openapi.json")
    operations: list[Any] = [result.ok() for result in list[Any](schema.get_all_operations())]
    weights = [4 if list(operation.body) else 1 for operation in operations]
    cases = int(str(request.config.getoption("--rest-cases")))
    found: dict[str, list[int]] = {}
    for operation, weight in zip(operations, weights, strict=True):
        each = max(1, round(cases * weight / sum(weights) / 2))
        found[operation.label] = send(operation, GenerationMode.POSITIVE, each)
        if not operation.label.endswith(IDS):
            found[operation.label] += send(operation, GenerationMode.NEGATIVE, each)
    assert sum(map(len, found.values())) > cases / 2  # where nothing is asked for, one case is all there is
    assert all(200 <= status < 500 for statuses in found.values() for status in statuses), found
    for label in ("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses"):
        assert 200 in found[label], found
    assert httpx.get(f"{gateway.target}/health").status_code == 200
