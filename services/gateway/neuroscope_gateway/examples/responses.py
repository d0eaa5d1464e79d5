"""The example of OpenAI's Responses API."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_5f0c",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello.", "annotations": list[str](), "logprobs": list[str]()}],
}
_RESPONSE: Any = {
    "id": "resp_5f0c",
    "object": "response",
    "created_at": 1763750000,
    "status": "completed",
    "model": MODEL_ID,
    "output": [_MESSAGE],
    "usage": {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    },
    "incomplete_details": None,
    "error": None,
    "instructions": None,
    "max_output_tokens": 16,
    "temperature": 0.0,
    "top_p": 1.0,
    "metadata": {},
    "parallel_tool_calls": False,
    "previous_response_id": None,
    "store": False,
    "text": {"format": {"type": "text"}},
    "tool_choice": "none",
    "tools": [],
    "truncation": "disabled",
}
_DELTA: Any = {
    "type": "response.output_text.delta",
    "sequence_number": 4,
    "item_id": "msg_5f0c",
    "output_index": 0,
    "content_index": 0,
    "delta": "Hello",
    "logprobs": list[str](),
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/responses": Example(
        request={"input": "Hello!", "max_output_tokens": 16},
        answer=_RESPONSE,
        stream={"event": _DELTA["type"], "data": json.dumps(_DELTA)},
    ),
}
