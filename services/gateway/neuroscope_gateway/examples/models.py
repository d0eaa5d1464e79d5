"""Examples of models."""

from __future__ import annotations

from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_MODEL: Any = {
    "id": MODEL_ID,
    "object": "model",
    "created": 1763750000,
    "owned_by": "neuroscope",
    "model_path": "models/neuroscope-tiny",
    "architecture": "llama",
    "num_layers": 4,
    "d_model": 128,
    "num_heads": 8,
    "num_kv_heads": 8,
    "d_head": 16,
    "vocab_size": 512,
    "context_length": 256,
    "dtype": "float32",
    "parameter_count": 1000000,
    "weights_bytes": 4000000,
    "weights_hash": "5e0d4a1f9c27b8836a41d2f07be9c513",
    "quantization": list[Any](),
    "notes": list[str](),
    "has_chat_template": True,
    "bos_token_id": 0,
    "eos_token_ids": [1],
}
_POINT: Any = {
    "component": "attn_out",
    "layer": 2,
    "layer_name": "model.layers.2",
    "is_input": False,
    "available": True,
    "reason": "",
    "axes": ["batch", "position", "d_model"],
    "dtype": "float32",
    "module_path": "model.layers.2.self_attn",
}
_SELF_TEST: dict[str, Any] = {
    "logits_identical": True,
    "token_count": 8,
    "duration_ms": 21.5,
    "identities": [
        {
            "name": "resid_mid + mlp_contrib == resid_post",
            "worst_relative_error": 0.0,
            "tolerance": 1e-5,
            "failed_layers": list[int](),
        }
    ],
}

EXAMPLES: dict[str, Example] = {
    "POST /v1/models/load": Example(
        request={"model_path": "models/neuroscope-tiny", "model_id": MODEL_ID},
        answer=_MODEL | {"model_id": MODEL_ID, "status": "loaded", "supports_activations": True},
    ),
    "GET /v1/models": Example(answer={"object": "list", "data": [_MODEL], "models": [_MODEL]}),
    "GET /v1/models/{model_id}": Example(answer=_MODEL | {"hook_points": [_POINT], "self_test": _SELF_TEST}),
    "DELETE /v1/models/{model_id}": Example(answer={"id": MODEL_ID, "object": "model", "deleted": True}),
}
