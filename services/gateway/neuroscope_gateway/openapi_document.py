"""The OpenAPI document: that of FastAPI with examples, and with the security scheme of API keys."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from neuroscope_gateway.examples import ERROR, EXAMPLES, PARAMETERS
from neuroscope_gateway.examples.example import Example
from neuroscope_gateway.middleware.api_keys import PROBE_PATHS

_JSON = "application/json"
_SECURITY_SCHEME = "key"


def set_openapi(app: FastAPI, *, has_keys: bool) -> None:
    """Makes an application answer with this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                routes=app.routes,
                separate_input_output_schemas=app.separate_input_output_schemas,
            )
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    _add_examples(operation, f"{method.upper()} {path}")
                    if has_keys and path not in PROBE_PATHS:
                        operation["security"] = [{_SECURITY_SCHEME: []}]
            if has_keys:
                made["components"]["securitySchemes"] = {_SECURITY_SCHEME: {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document


def _add_examples(operation: dict[str, Any], label: str) -> None:
    example = EXAMPLES.get(label, Example())
    if example.request is not None:
        operation["requestBody"]["content"][_JSON]["example"] = example.request
    for parameter in operation.get("parameters", ()):
        parameter["example"] = PARAMETERS[parameter["name"]]
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            if status[0] in "45":
                content["example"] = ERROR
            elif kind == _JSON and example.answer is not None:
                content["example"] = example.answer
            elif example.stream is not None and "example" not in content:
                content["example"] = example.stream
