"""Examples of weights and projections to the vocabulary."""

from __future__ import annotations

from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_WEIGHT: dict[str, Any] = {
    "name": "W_Q",
    "layer": 2,
    "shape": [2, 128, 16],
    "axes": ["head", "d_model", "d_head"],
    "dtype": "float32",
    "module": "model.layers.2.self_attn.q_proj",
    "source": "stored",
    "heads": [0, 5],
    "experts": list[int](),
    "measures": None,
}
_WEIGHTS: dict[str, Any] = {
    "object": "list",
    "model": MODEL_ID,
    "data": [_WEIGHT],
    "layers": [
        {
            "layer": 2,
            "is_rotary": True,
            "has_query_norm": False,
            "score_scale": 0.25,
            "score_softcap": None,
            "contribution_scale": 1.0,
            "activation": "silu",
        }
    ],
    "embedding_scale": 1.0,
    "logit_scale": 1.0,
    "logit_softcap": None,
    "is_tied": True,
    "notes": ["norms are not folded in"],
    "missing": {"W_pos": "positions are not embedded by a matrix that is added"},
}
_PREDICTED: dict[str, Any] = {"id": 312, "text": " Paris", "logit": 14.2, "log_probability": -0.01, "rank": 0}
_VOCABULARY: dict[str, Any] = {
    "vectors": {"capture_id": "run-17", "plan_index": 0},
    "top_k": 1,
    "tokens": [" Paris"],
    "reference": 0,
}
_PREDICTIONS: dict[str, Any] = {
    "object": "vocabulary",
    "model": MODEL_ID,
    "data": [{"index": [0], "top": [_PREDICTED], "tokens": [_PREDICTED], "kl": 0.0, "entropy": 0.4}],
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/experiments/vocabulary": Example(request=_VOCABULARY, answer=_PREDICTIONS),
    "GET /v1/experiments/weights": Example(answer=_WEIGHTS),
    "GET /v1/experiments/weights/{weight}": Example(answer=_WEIGHT | {"object": "weight", "data": [[[0.25, -1.5]]]}),
}
