"""OpenAPI and the page made of it.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_reference.py"""

from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import pytest

from neuroscope_gateway.app import create_app
from neuroscope_gateway.settings import GatewaySettings

ROUTES = {
    "/health": {"get"},
    "/v1/models": {"get"},
    "/v1/models/load": {"post"},
    "/v1/models/{model_id}": {"get", "delete"},
    "/v1/chat/completions": {"post"},
    "/v1/completions": {"post"},
    "/v1/responses": {"post"},
    "/v1/chat/completions/with_activations": {"post"},
    "/v1/activations/hooks": {"post", "get", "delete"},
    "/v1/activations/captures": {"get"},
    "/v1/activations/captures/{capture_id}": {"get", "delete"},
    "/v1/activations/captures/{capture_id}/{tensor}": {"get"},
    "/v1/activations/presets": {"get"},
    "/v1/activations/presets/{name}": {"get"},
    "/v1/analysis/attention": {"post"},
    "/v1/analysis/attention/comparison": {"post"},
    "/v1/analysis/composition": {"post"},
    "/v1/analysis/interactions": {"post"},
    "/v1/analysis/residual_stream": {"post"},
    "/v1/analysis/tuned_lens": {"post"},
    "/v1/analysis/circuits": {"post"},
    "/v1/analysis/circuits/evaluate": {"post"},
    "/v1/analysis/circuits/export": {"post"},
    "/v1/dictionaries": {"get", "post"},
    "/v1/dictionaries/{dictionary_id}": {"get", "delete"},
    "/v1/dictionaries/{dictionary_id}/features": {"post"},
    "/v1/experiments/attributions": {"post"},
    "/v1/experiments/sweeps": {"post"},
    "/v1/experiments/vocabulary": {"post"},
    "/v1/experiments/edge_graph": {"get"},
    "/v1/experiments/weights": {"get"},
    "/v1/experiments/weights/{weight}": {"get"},
    "/v1/traces/{trace_id}": {"get"},
}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if href := values.get("href") or values.get("src"):
            self.targets.add(href)
        if name := values.get("id"):
            self.ids.add(name)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_openapi_has_every_route_and_no_other(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert {path: set(operations) for path, operations in document["paths"].items()} == ROUTES


@pytest.mark.parametrize("route", ROUTES)
def test_openapi_tells_errors_as_they_are(http: httpx.Client, route: str) -> None:
    document = http.get("/openapi.json").json()
    for operation in document["paths"][route].values():
        assert "422" not in operation["responses"]
        assert route == "/health" or {"4XX", "5XX"} <= set(operation["responses"])


def test_every_route_has_examples_that_fit(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            label = f"{method} {path}"
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [response.get("content", {}) for response in operation["responses"].values()]
            for parameter in operation.get("parameters", ()):
                _check(document, parameter["schema"], parameter["example"], label)
            for content in contents:
                for kind, of in content.items():
                    if kind != "application/octet-stream":
                        _check(document, of["schema"], of["example"], label)


def _check(document: dict[str, Any], schema: dict[str, Any], example: Any, label: str) -> None:
    """Holds an example against a schema of the document."""
    whole = schema | {"components": document["components"]}
    problems = [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.iter_errors(whole, example)]
    assert not problems, (label, problems)


def test_a_gateway_with_keys_says_how_they_are_sent() -> None:
    document = create_app(GatewaySettings(api_keys=("k",))).openapi()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "security" in document["paths"]["/v1/models"]["get"]
    assert "security" not in document["paths"]["/health"]["get"]


def test_openapi_names_what_is_not_supported(http: httpx.Client) -> None:
    fields = http.get("/openapi.json").json()["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert fields["store"]["enum"] == [False, None]
    assert fields["functions"]["enum"] == [[], None]
    assert "enum" not in fields["tools"]


def test_the_page_is_complete_and_asks_nothing_of_others(http: httpx.Client) -> None:
    response = http.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = _Page()
    page.feed(response.text)
    assert page.open == []
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert {target.removeprefix("#") for target in page.targets if target.startswith("#")} <= page.ids
    assert {target for target in page.targets if not target.startswith("#")} == {"/openapi.json"}
    assert all(route in page.text for route in ROUTES)
    assert "CapturedActivation" in page.ids
