"""OpenAPI examples of every route; tests validate them against the schemas."""

from __future__ import annotations

from typing import Any

from neuroscope_gateway.examples import (
    activations,
    chat,
    circuits,
    completions,
    dictionaries,
    experiments,
    heads,
    health,
    models,
    residual,
    responses,
    weights,
)
from neuroscope_gateway.examples.example import MODEL_ID, Example

_FAMILIES = (
    health,
    models,
    chat,
    completions,
    responses,
    activations,
    experiments,
    weights,
    dictionaries,
    heads,
    residual,
    circuits,
)
EXAMPLES: dict[str, Example] = {route: example for family in _FAMILIES for route, example in family.EXAMPLES.items()}
"""Examples by operation, such as `GET /v1/models`."""

PARAMETERS: dict[str, Any] = {
    "dictionary_id": "resid_post_2",
    "model_id": MODEL_ID,
    "capture_id": "run-17",
    "tensor": 0,
    "step": 0,
    "row": 0,
    "Range": "bytes=0-4095",
    "If-Range": '"9f86d081884c7d65"',
    "hook_ids": ["attention_2"],
    "model": MODEL_ID,
    "name": "circuit_discovery",
    "layers": [0, 2],
    "names": ["qk", "W_out"],
    "summaries": True,
    "weight": "W_Q",
    "layer": 2,
    "heads": [0, 5],
    "experts": [1],
    "dtype": "float32",
    "format": "binary",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
"""Examples of path, query and header parameters."""

ERROR: dict[str, Any] = {
    "error": {
        "message": "activation_hooks[0].component: 'atention' is no component; did you mean attention?",
        "type": "invalid_request_error",
        "param": "activation_hooks[0].component",
        "code": "unknown_site",
    }
}
