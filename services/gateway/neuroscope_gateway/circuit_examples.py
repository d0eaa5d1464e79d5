"""Examples of circuits, for OpenAPI."""

from __future__ import annotations

import json
from typing import Any

_MODEL = "neuroscope-tiny"
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
    "model": {"model_id": _MODEL, "layer_count": 1, "head_count": 4, "key_value_head_count": 4, "d_model": 128},
}
_EVALUATION = {"clean": 15.5, "corrupted": -16.5, "circuit": 15.0, "faithfulness": 0.984}
DISCOVERY: dict[str, Any] = {"model": _MODEL, "dataset": "copying", "method": "eap-ig", "size": 0.2}
EVALUATION: dict[str, Any] = {"model": _MODEL, "dataset": "copying", "seed": 1, "circuit": CIRCUIT}
EXPORT: dict[str, Any] = {"circuit": CIRCUIT, "format": "mermaid"}
FOUND: dict[str, Any] = {
    "object": "circuit_discovery",
    "model": _MODEL,
    "is_found": True,
    "reason": "",
    "circuit": CIRCUIT,
    "dropped": {},
    "warnings": [],
    "token_count": 1024,
}
EVALUATED: dict[str, Any] = {
    "object": "circuit_evaluation",
    "model": _MODEL,
    "circuit": CIRCUIT | {"evaluation": _EVALUATION},
    "dropped": {},
    "warnings": [],
    "token_count": 1024,
    "elapsed_seconds": 1.5,
}
POINT: dict[str, Any] = {
    "event": "point",
    "data": json.dumps({"type": "point", "size": 0.05, "edge_count": 50, "faithfulness": 0.933}),
}
FILE = "flowchart BT\n"
