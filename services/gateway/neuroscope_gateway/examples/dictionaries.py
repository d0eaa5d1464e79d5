"""Examples of dictionaries."""

from __future__ import annotations

from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_DICTIONARY: Any = {
    "id": "resid_post_2",
    "object": "dictionary",
    "created": 1763750000,
    "model": MODEL_ID,
    "path": "models/dictionaries/resid_post_2",
    "architecture": "jumprelu",
    "site": "resid_post.2",
    "output_site": "resid_post.2",
    "feature_count": 512,
    "input_width": 128,
    "output_width": 128,
    "top_k": 0,
    "dtype": "float32",
    "length_bytes": 528896,
    "trained_on": MODEL_ID,
    "warnings": list[str](),
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/dictionaries": Example(request={"path": "models/dictionaries/resid_post_2"}, answer=_DICTIONARY),
    "POST /v1/dictionaries/{dictionary_id}/features": Example(
        request={"prompt": "The capital of France is", "top": 1},
        answer={
            "object": "features",
            "dictionary_id": "resid_post_2",
            "model": MODEL_ID,
            "fvu": 0.02,
            "positions": [
                {
                    "position": 5,
                    "token_id": 60,
                    "token": " is",
                    "active_count": 14,
                    "squared_error": 0.5,
                    "squared_norm": 20.0,
                    "features": [{"feature": 7, "value": 1.5}],
                }
            ],
        },
    ),
    "GET /v1/dictionaries": Example(answer={"object": "list", "data": [_DICTIONARY]}),
    "GET /v1/dictionaries/{dictionary_id}": Example(answer=_DICTIONARY),
    "DELETE /v1/dictionaries/{dictionary_id}": Example(
        answer={"id": "resid_post_2", "object": "dictionary", "deleted": True}
    ),
}
