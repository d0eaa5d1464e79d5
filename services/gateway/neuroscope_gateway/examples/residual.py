"""Examples of analyses of the residual stream."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_RESIDUAL: Any = {
    "object": "residual_analysis",
    "model": MODEL_ID,
    "parts": ["attribution", "flow"],
    "components": ["embed", "a0", "m0"],
    "prompts": [
        {
            "token_ids": [1, 30, 60],
            "tokens": ["<|bos|>", "When", " Mary"],
            "position": 2,
            "arrays": [
                {
                    "name": "direct",
                    "dims": ["component"],
                    "coords": {"component": ["embed", "a0", "m0"]},
                    "values": [0.05, -0.12, 0.9],
                }
            ],
            "error": None,
            "attribution": {
                "position": 2,
                "answer": {"token_id": 463, "text": " Mary", "logit": 20.9, "sum": 20.9, "constant": 0.0},
                "other": {"token_id": 527, "text": " John", "logit": 13.3, "sum": 13.3, "constant": 0.0},
                "norm_scale": 10.5,
                "logit_scale": 1.0,
                "softcap": None,
                "neurons": [{"layer": 3, "neuron": 316, "activation": 12.5, "logit": 0.85}],
            },
            "lens": None,
            "metric": None,
            "flow": {
                "clean": 7.6,
                "corrupted": -10.8,
                "writers": [
                    {
                        "name": "a0.h2",
                        "effect": 0.5,
                        "written_norm": 9.2,
                        "survival": [0.0, 1.0, 1.0, 0.9, 0.9],
                        "rewriters": [{"name": "m2", "share": -0.11}],
                    }
                ],
                "edges": [
                    {
                        "writer": "a0.h2",
                        "reader": "m0",
                        "effect": 0.49,
                        "layers_between": 0,
                        "read_between": 0.0,
                        "reader_between": "",
                        "survival": 1.0,
                        "is_skip": False,
                    }
                ],
            },
        }
    ],
    "notes": ["logits are attributed with the final norm frozen at what it divides by in the run"],
    "warnings": [],
    "token_count": 6,
    "call_count": 23,
    "elapsed_seconds": 2.5,
}
_TUNED_LAYER: Any = {
    "point": 1,
    "held_out_kl_before": 6.51,
    "held_out_kl_after": 1.3,
    "held_out_kl_ridge": 2.22,
    "iterations": 50,
}
_TUNED: Any = {
    "object": "tuned_lens",
    "lens": {
        "model": MODEL_ID,
        "marks": {"W_U": 35.2},
        "translators": [
            {
                "point": 1,
                "weight": {"dtype": "float32", "shape": [1, 1], "data": "AACAPw=="},
                "bias": {"dtype": "float32", "shape": [1], "data": "AAAAAA=="},
            }
        ],
        "provenance": {"objective": "kl", "training_token_count": 1443},
    },
    "layers": [_TUNED_LAYER],
    "token_count": 3600,
    "call_count": 179,
    "elapsed_seconds": 16.0,
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/analysis/residual_stream": Example(
        request={
            "prompts": ["When Mary and John went to the store, John gave a drink to"],
            "answers": [" Mary"],
            "others": [" John"],
            "strongest_neurons": 5,
        },
        answer=_RESIDUAL,
        stream={
            "event": "ablated",
            "data": json.dumps({"type": "ablated", "prompt": 0, "metric": 7.6}),
        },
    ),
    "POST /v1/analysis/tuned_lens": Example(
        request={
            "texts": ["Once upon a time there was a girl.", "Once upon a time there was a boy."],
            "objective": "ridge",
        },
        answer=_TUNED,
        stream={
            "event": "layer",
            "data": json.dumps({"type": "layer", **_TUNED_LAYER}),
        },
    ),
}
