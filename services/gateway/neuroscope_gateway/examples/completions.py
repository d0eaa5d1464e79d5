"""Examples of text completions."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.chat import USAGE
from neuroscope_gateway.examples.example import MODEL_ID, Example

_TEXT_CHUNK: Any = {
    "id": "cmpl-5f0c",
    "object": "text_completion",
    "created": 1763750000,
    "model": MODEL_ID,
    "choices": [{"index": 0, "text": " Paris", "logprobs": None, "finish_reason": None}],
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/completions": Example(
        request={"prompt": "The capital of France is", "max_tokens": 3, "logprobs": 1},
        answer={
            "id": "cmpl-5f0c",
            "object": "text_completion",
            "created": 1763750000,
            "model": MODEL_ID,
            "choices": [
                {
                    "index": 0,
                    "text": " Paris",
                    "logprobs": {
                        "tokens": [" Paris"],
                        "token_logprobs": [-0.01],
                        "top_logprobs": [{" Paris": -0.01}],
                        "text_offset": [0],
                    },
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
        },
        stream={"data": json.dumps(_TEXT_CHUNK)},
    ),
}
