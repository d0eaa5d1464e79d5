"""Examples of interventions in the format of `neuroscope.interventions.forms`."""

from __future__ import annotations

from typing import Any

EXAMPLES: list[dict[str, Any]] = [
    {"layer_name": "transformer.h.2", "component": "attention", "heads": [3, 7], "action": "zero"},
    {"layer_name": "transformer.h.2", "component": "mlp", "positions": [-1], "action": "scale", "factor": 0.5},
    {
        "layer_name": "transformer.h.2",
        "component": "residual",
        "steps": {"start": 1},
        "action": "add",
        "direction": {"tensor_id": "5c1b0a8e"},
        "coefficient": 4,
    },
    {
        "layer_name": "transformer.h.2",
        "component": "residual",
        "positions": {"start": 2, "stop": 4},
        "action": "replace",
        "value": {"capture_id": "clean", "plan_index": 0},
    },
    {"component": "embedding", "action": "noise", "standard_deviation": 0.1, "seed": 1},
    {
        "layer_name": "transformer.h.2",
        "component": "residual",
        "action": "project_out",
        "direction": {"dtype": "float32", "shape": [2], "data": "AACAPwAAAAA="},
    },
    {"layer_name": "transformer.h.2", "component": "mlp_neurons", "action": "clamp", "maximum": 1},
    {
        "layer_name": "transformer.h.2",
        "component": "value",
        "heads": [0],
        "action": "mean",
        "reference": [[0.5, 1.0], [1.5, 2.0]],
    },
    {"action": "features", "dictionary_id": "resid_post_2", "features": [7], "value": 5},
    {
        "layer_name": "transformer.h.2",
        "component": "residual",
        "expression": {
            "binary": {
                "operator": "BINARY_OPERATOR_MULTIPLY",
                "left": {"activation": {}},
                "right": {"constant": 0.5},
            }
        },
    },
]
