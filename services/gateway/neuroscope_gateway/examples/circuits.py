"""Examples of circuits."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

CIRCUIT: dict[str, Any] = {
    "format": "neuroscope.v1.Circuit",
    "name": "copying by eap-ig",
    "nodes": [
        {"name": "input", "kind": "CIRCUIT_NODE_KIND_INPUT", "in_circuit": True},
        {"name": "a0.h3", "kind": "CIRCUIT_NODE_KIND_HEAD", "layer": 0, "head": 3, "in_circuit": True},
        {"name": "logits", "kind": "CIRCUIT_NODE_KIND_LOGITS", "in_circuit": True},
    ],
    "edges": [
        {"sender": "input", "receiver": "a0.h3<v>", "score": -4.5, "in_circuit": True},
        {"sender": "a0.h3", "receiver": "logits", "score": -2.25, "in_circuit": True},
    ],
    "edge_count": 5,
    "model": {"model_id": MODEL_ID, "layer_count": 1, "head_count": 4, "key_value_head_count": 4, "d_model": 128},
}
_SCORES = {"clean": 15.5, "corrupted": -16.5, "circuit": 15.0, "faithfulness": 0.984}
_DISCOVERY: dict[str, Any] = {"model": MODEL_ID, "dataset": "copying", "method": "eap-ig", "size": 0.2}
_EVALUATION: dict[str, Any] = {"model": MODEL_ID, "dataset": "copying", "seed": 1, "circuit": CIRCUIT}
_EXPORT: dict[str, Any] = {"circuit": CIRCUIT, "format": "mermaid"}
_FOUND: dict[str, Any] = {
    "object": "circuit_discovery",
    "model": MODEL_ID,
    "is_found": True,
    "reason": "",
    "circuit": CIRCUIT,
    "dropped": {},
    "warnings": [],
    "token_count": 1024,
}
_EVALUATED: dict[str, Any] = {
    "object": "circuit_evaluation",
    "model": MODEL_ID,
    "circuit": CIRCUIT | {"evaluation": _SCORES},
    "dropped": {},
    "warnings": [],
    "token_count": 1024,
    "elapsed_seconds": 1.5,
}
_POINT: dict[str, Any] = {
    "event": "point",
    "data": json.dumps({"type": "point", "size": 0.05, "edge_count": 50, "faithfulness": 0.933}),
}
FILE = "flowchart BT\n"

EXAMPLES: dict[str, Example] = {
    "POST /v1/analysis/circuits": Example(request=_DISCOVERY, answer=_FOUND, stream=_POINT),
    "POST /v1/analysis/circuits/evaluate": Example(request=_EVALUATION, answer=_EVALUATED, stream=_POINT),
    "POST /v1/analysis/circuits/export": Example(request=_EXPORT, answer=CIRCUIT),
}
