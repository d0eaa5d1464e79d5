"""Examples of chat completions."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.activations import HOOK
from neuroscope_gateway.examples.example import MODEL_ID, Example

_MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
USAGE: Any = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
_HEAD: Any = {"id": "chatcmpl-5f0c", "created": 1763750000, "model": MODEL_ID}
_COMPLETION: Any = _HEAD | {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello."},
            "logprobs": None,
            "finish_reason": "length",
        }
    ],
    "usage": USAGE,
}
_ACTIVATION: Any = {
    "hook_id": "attention_2",
    "layer_name": "transformer.h.2",
    "component": "attention",
    "shape": [1, 1, 4],
    "dtype": "float32",
    "is_input": False,
    "data": [[[0.25, -1.5, 0.0, 2.0]]],
}


def _line(delta: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return _HEAD | {"object": "chat.completion.chunk", "choices": [choice]}


EXAMPLES: dict[str, Example] = {
    "POST /v1/chat/completions": Example(
        request={"messages": _MESSAGES, "max_tokens": 16, "temperature": 0.7, "seed": 1},
        answer=_COMPLETION,
        stream={"data": json.dumps(_line({"content": "Hello"}))},
    ),
    "POST /v1/chat/completions/with_activations": Example(
        request={
            "messages": _MESSAGES,
            "max_tokens": 2,
            "activation_hooks": [HOOK],
            "activation_format": "list",
        },
        answer=_COMPLETION | {"activations": {"attention_2": [_ACTIVATION]}},
        stream=json.dumps(_line({"content": "Hello"}) | {"activations": {"attention_2": [_ACTIVATION]}}) + "\n",
    ),
}
