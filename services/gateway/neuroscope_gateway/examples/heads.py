"""Examples of analyses of attention heads."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_LABEL: Any = {
    "layer": 3,
    "head": 6,
    "role": "induction",
    "score": 0.977,
    "threshold": 0.4,
    "verdict": "confirmed",
    "evidence": [
        {
            "probe": "restored",
            "effect_nats": 10.96,
            "standard_error_nats": 0.13,
            "bound_nats": 0.46,
            "bound": "noise over the sequences",
            "is_passed": True,
            "sequence_count": 16,
        }
    ],
    "reason": "",
    "offset": None,
    "null_comparison": None,
}
_ATTENTION: Any = {
    "object": "attention_analysis",
    "model": MODEL_ID,
    "arrays": [
        {
            "name": "induction_score",
            "dims": ["layer", "head"],
            "coords": {"layer": [3], "head": [5, 6]},
            "values": [[0.02, 0.977]],
        }
    ],
    "roles": [
        {
            "role": "induction",
            "threshold": 0.4,
            "definition": "mean weight on the token behind the same token in the first block",
            "causal_test": "the head's output is replaced by its mean",
        }
    ],
    "labels": [_LABEL],
    "token_count": 784,
    "elapsed_seconds": 2.5,
}
_GIVEN: Any = "When Mary and John went to the store, John gave a drink to"
_ANSWERED_PAIR: Any = {
    "clean": _GIVEN,
    "corrupted": "When Tom and Alice went to the store, Bob gave a drink to",
    "answer": " Mary",
    "other": " John",
}
_COMPARED: Any = {
    "object": "attention_comparison",
    "model": MODEL_ID,
    "alignment": [[0, 0], [1, 1]],
    "arrays": [
        {
            "name": "jensen_shannon",
            "dims": ["layer", "head"],
            "coords": {"layer": [3], "head": [5, 6]},
            "values": [[0.02, 0.41]],
        }
    ],
    "elapsed_seconds": 0.2,
}
_COMPOSED: Any = {
    "object": "composition",
    "model": MODEL_ID,
    "arrays": [
        {
            "name": "k_composition",
            "dims": ["writer_layer", "writer_head", "reader_layer", "reader_head"],
            "coords": {"writer_layer": [2], "writer_head": [6], "reader_layer": [3], "reader_head": [6]},
            "values": [[[[0.27]]]],
        }
    ],
    "baselines": [{"kind": "k", "mean": 0.088, "standard_deviation": 0.004}],
    "warnings": [],
    "elapsed_seconds": 0.4,
}
_INTERACTION: Any = {
    "sender": [2, 6],
    "receiver": [3, 3],
    "part": "k",
    "effect": 4.1,
    "standard_error": 0.5,
    "p_value": 8.3e-7,
}
_INTERACTIONS: Any = {
    "object": "head_interactions",
    "model": MODEL_ID,
    "metric": "the cross-entropy of the second block of random sequences, in nats",
    "interactions": [_INTERACTION],
    "arrays": [
        {
            "name": "head_effect",
            "dims": ["layer", "head"],
            "coords": {"layer": [2], "head": [5, 6]},
            "values": [[0.0, 4.2]],
        }
    ],
    "tested_count": 280,
    "screened_count": 20,
    "elapsed_seconds": 4.0,
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/analysis/attention": Example(
        request={"prompts": ["The capital of France is"], "roles": ["induction"], "seed": 1},
        answer=_ATTENTION,
        stream={"event": "label", "data": json.dumps({"type": "label", **_LABEL})},
    ),
    "POST /v1/analysis/attention/comparison": Example(
        request={"first": _GIVEN, "second": "The capital of France is"},
        answer=_COMPARED,
        stream={
            "event": "result",
            "data": json.dumps({"type": "result", **_COMPARED}),
        },
    ),
    "POST /v1/analysis/composition": Example(
        request={"layers": [2, 3], "random_pairs": 16},
        answer=_COMPOSED,
        stream={"event": "result", "data": json.dumps({"type": "result", **_COMPOSED})},
    ),
    "POST /v1/analysis/interactions": Example(
        request={"pairs": [_ANSWERED_PAIR, _ANSWERED_PAIR], "layers": [2, 3]},
        answer=_INTERACTIONS,
        stream={
            "event": "tried",
            "data": json.dumps({"type": "tried", "paths": [_INTERACTION]}),
        },
    ),
}
