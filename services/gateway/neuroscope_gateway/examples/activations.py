"""Examples of hooks, presets and captures."""

from __future__ import annotations

from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

HOOK: Any = {"layer_name": "transformer.h.2", "component": "attention", "hook_id": "attention_2"}
KEPT_HOOK: Any = HOOK | {"capture_input": False, "capture_output": True}
_CAPTURE: Any = {
    "id": "run-17",
    "object": "capture",
    "state": "committed",
    "expires_at": 1763753600,
    "prompt_tokens": 12,
    "completion_tokens": 2,
    "tensors": [
        {
            "tensor": 0,
            "hook_id": "attention_2",
            "layer_name": "transformer.h.2",
            "component": "attn_out",
            "is_input": False,
            "dtype": "float32",
            "axes": ["batch", "position", "d_model"],
            "reduced": "",
            "rows": [{"row": 0, "piece_count": 2, "position_count": 13, "length_bytes": 6656}],
        }
    ],
}
_PRESET: Any = {
    "name": "circuit_discovery",
    "description": "What each layer's attention and MLP write into the residual stream.",
    "model": MODEL_ID,
    "layers": [2],
    "activation_hooks": [KEPT_HOOK],
    "unavailable": [],
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/activations/hooks": Example(request={"hooks": [HOOK]}, answer={"registered_hooks": ["attention_2"]}),
    "DELETE /v1/activations/hooks": Example(
        request={"hook_ids": ["attention_2"]}, answer={"status": "hooks cleared", "cleared_hooks": ["attention_2"]}
    ),
    "GET /v1/activations/captures": Example(answer={"object": "list", "data": [_CAPTURE]}),
    "GET /v1/activations/captures/{capture_id}": Example(answer=_CAPTURE),
    "DELETE /v1/activations/captures/{capture_id}": Example(
        answer={"id": "run-17", "object": "capture", "deleted": True}
    ),
    "GET /v1/activations/hooks": Example(answer={"object": "list", "hooks": [KEPT_HOOK]}),
    "GET /v1/activations/presets": Example(
        answer={
            "object": "list",
            "model": MODEL_ID,
            "presets": [_PRESET],
            "scenarios": [
                {
                    "name": "mathematical_reasoning",
                    "description": "Sums with and without a carry.",
                    "preset": "circuit_discovery",
                    "requests": [
                        {
                            "model": MODEL_ID,
                            "messages": [{"role": "user", "content": "What is 127 + 348?"}],
                            "max_tokens": 8,
                            "activation_hooks": [KEPT_HOOK],
                            "activation_format": "metadata",
                        }
                    ],
                }
            ],
        }
    ),
    "GET /v1/activations/presets/{name}": Example(answer=_PRESET),
}
