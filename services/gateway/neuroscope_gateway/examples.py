"""An example of what every route takes and answers, for OpenAPI. The tests hold each against its schema."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway import circuit_examples, residual_examples

_MODEL_ID = "neuroscope-tiny"
_HOOK: Any = {"layer_name": "transformer.h.2", "component": "attention", "hook_id": "attention_2"}
_KEPT_HOOK: Any = _HOOK | {"capture_input": False, "capture_output": True}
_MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
_USAGE: Any = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
_HEAD: Any = {"id": "chatcmpl-5f0c", "created": 1763750000, "model": _MODEL_ID}
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
    "usage": _USAGE,
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
_MODEL: Any = {
    "id": _MODEL_ID,
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
    "model": _MODEL_ID,
    "layers": [2],
    "activation_hooks": [_KEPT_HOOK],
    "unavailable": [],
}
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
    "model": _MODEL_ID,
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
_TEXT_CHUNK: Any = {
    "id": "cmpl-5f0c",
    "object": "text_completion",
    "created": 1763750000,
    "model": _MODEL_ID,
    "choices": [{"index": 0, "text": " Paris", "logprobs": None, "finish_reason": None}],
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


def _line(delta: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return _HEAD | {"object": "chat.completion.chunk", "choices": [choice]}


_SWEEP: Any = {
    "pairs": [
        {
            "clean": "When Mary and John went to the store, John gave a drink to",
            "corrupted": "When Mary and John went to the store, Mary gave a drink to",
        }
    ],
    "grids": [{"component": "head_output", "layers": [2], "heads": [0, 6]}],
    "metric": {"kind": "logit_difference", "answers": [" Mary"], "others": [" John"]},
}
_SWEPT: Any = {
    "object": "sweep",
    "model": _MODEL_ID,
    "metric": "logit_difference",
    "method": "layers_and_positions",
    "reason": "",
    "clean": [7.6],
    "corrupted": [-10.8],
    "grids": [
        {
            "name": "head_output",
            "dims": ["layer", "head"],
            "coords": {"layer": [2], "head": [0, 6]},
            "values": [[-9.8, -6.9]],
        }
    ],
    "elapsed_seconds": 0.02,
}
_ATTRIBUTION: Any = {
    "pairs": _SWEEP["pairs"],
    "metric": _SWEEP["metric"],
    "method": "attribution-patching",
    "sites": ["mlp_out:position"],
}
_ATTRIBUTED: Any = {
    "object": "attribution",
    "model": _MODEL_ID,
    "metric": "logit_difference",
    "method": "attribution-patching",
    "steps": 1,
    "clean": [7.6],
    "corrupted": [-10.8],
    "scores": [
        {
            "name": "mlp_out",
            "dims": ["layer", "position"],
            "coords": {"layer": [2], "position": [0, 1]},
            "values": [[0.0, -0.4]],
        }
    ],
    "completeness": list[Any](),
    "elapsed_seconds": 0.02,
    "forward_passes": 2.5,
}

_DICTIONARY: Any = {
    "id": "resid_post_2",
    "object": "dictionary",
    "created": 1763750000,
    "model": _MODEL_ID,
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
    "trained_on": _MODEL_ID,
    "warnings": list[str](),
}
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
    "model": _MODEL_ID,
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
    "model": _MODEL_ID,
    "data": [{"index": [0], "top": [_PREDICTED], "tokens": [_PREDICTED], "kl": 0.0, "entropy": 0.4}],
}

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
        }
    ],
    "reason": "",
    "offset": None,
}
_ATTENTION: Any = {
    "object": "attention_analysis",
    "model": _MODEL_ID,
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
    "model": _MODEL_ID,
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
    "model": _MODEL_ID,
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
    "model": _MODEL_ID,
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

REQUESTS: dict[str, Any] = {
    "POST /v1/analysis/residual_stream": {
        "prompts": ["When Mary and John went to the store, John gave a drink to"],
        "answers": [" Mary"],
        "others": [" John"],
        "strongest_neurons": 5,
    },
    "POST /v1/analysis/tuned_lens": {
        "texts": ["Once upon a time there was a girl.", "Once upon a time there was a boy."],
        "objective": "ridge",
    },
    "POST /v1/analysis/attention": {"prompts": ["The capital of France is"], "roles": ["induction"], "seed": 1},
    "POST /v1/analysis/attention/comparison": {"first": _GIVEN, "second": "The capital of France is"},
    "POST /v1/analysis/composition": {"layers": [2, 3], "random_pairs": 16},
    "POST /v1/analysis/interactions": {"pairs": [_ANSWERED_PAIR, _ANSWERED_PAIR], "layers": [2, 3]},
    "POST /v1/analysis/circuits": circuit_examples.DISCOVERY,
    "POST /v1/analysis/circuits/evaluate": circuit_examples.EVALUATION,
    "POST /v1/analysis/circuits/export": circuit_examples.EXPORT,
    "POST /v1/dictionaries": {"path": "models/dictionaries/resid_post_2"},
    "POST /v1/dictionaries/{dictionary_id}/features": {"prompt": "The capital of France is", "top": 1},
    "POST /v1/experiments/vocabulary": _VOCABULARY,
    "POST /v1/experiments/attributions": _ATTRIBUTION,
    "POST /v1/experiments/sweeps": _SWEEP,
    "POST /v1/models/load": {"model_path": "models/neuroscope-tiny", "model_id": _MODEL_ID},
    "POST /v1/chat/completions": {"messages": _MESSAGES, "max_tokens": 16, "temperature": 0.7, "seed": 1},
    "POST /v1/chat/completions/with_activations": {
        "messages": _MESSAGES,
        "max_tokens": 2,
        "activation_hooks": [_HOOK],
        "activation_format": "list",
    },
    "POST /v1/completions": {"prompt": "The capital of France is", "max_tokens": 3, "logprobs": 1},
    "POST /v1/responses": {"input": "Hello!", "max_output_tokens": 16},
    "POST /v1/activations/hooks": {"hooks": [_HOOK]},
    "DELETE /v1/activations/hooks": {"hook_ids": ["attention_2"]},
}
"""Bodies, by operation."""

ANSWERS: dict[str, Any] = {
    "POST /v1/analysis/residual_stream": residual_examples.RESIDUAL,
    "POST /v1/analysis/tuned_lens": residual_examples.TUNED,
    "POST /v1/analysis/attention": _ATTENTION,
    "POST /v1/analysis/attention/comparison": _COMPARED,
    "POST /v1/analysis/composition": _COMPOSED,
    "POST /v1/analysis/interactions": _INTERACTIONS,
    "POST /v1/analysis/circuits": circuit_examples.FOUND,
    "POST /v1/analysis/circuits/evaluate": circuit_examples.EVALUATED,
    "POST /v1/analysis/circuits/export": circuit_examples.CIRCUIT,
    "GET /v1/dictionaries": {"object": "list", "data": [_DICTIONARY]},
    "POST /v1/dictionaries": _DICTIONARY,
    "GET /v1/dictionaries/{dictionary_id}": _DICTIONARY,
    "DELETE /v1/dictionaries/{dictionary_id}": {"id": "resid_post_2", "object": "dictionary", "deleted": True},
    "POST /v1/dictionaries/{dictionary_id}/features": {
        "object": "features",
        "dictionary_id": "resid_post_2",
        "model": _MODEL_ID,
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
    "GET /v1/experiments/weights": _WEIGHTS,
    "GET /v1/experiments/weights/{weight}": _WEIGHT | {"object": "weight", "data": [[[0.25, -1.5]]]},
    "POST /v1/experiments/vocabulary": _PREDICTIONS,
    "POST /v1/experiments/sweeps": _SWEPT,
    "POST /v1/experiments/attributions": _ATTRIBUTED,
    "GET /health": {
        "status": "healthy",
        "service": "neuroscope-gateway",
        "version": "0.1.0",
        "inference": "127.0.0.1:50051",
        "models": [_MODEL_ID],
        "workload": {
            "streams": 0,
            "decoding_rows": 0,
            "generated_tokens": 512,
            "captured_bytes": 1048576,
            "queue_wait_ms": 0.2,
            "weights_bytes": 4000000,
            "weights_budget_bytes": 0,
            "active_memory_bytes": 5000000,
            "peak_memory_bytes": 9000000,
            "shared_memory_streams": 0,
            "shared_memory_bytes": 0,
        },
    },
    "GET /v1/models": {"object": "list", "data": [_MODEL], "models": [_MODEL]},
    "POST /v1/models/load": _MODEL | {"model_id": _MODEL_ID, "status": "loaded", "supports_activations": True},
    "GET /v1/models/{model_id}": _MODEL | {"hook_points": [_POINT], "self_test": _SELF_TEST},
    "DELETE /v1/models/{model_id}": {"id": _MODEL_ID, "object": "model", "deleted": True},
    "POST /v1/chat/completions": _COMPLETION,
    "POST /v1/chat/completions/with_activations": _COMPLETION | {"activations": {"attention_2": [_ACTIVATION]}},
    "POST /v1/completions": {
        "id": "cmpl-5f0c",
        "object": "text_completion",
        "created": 1763750000,
        "model": _MODEL_ID,
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
        "usage": _USAGE,
    },
    "POST /v1/responses": _RESPONSE,
    "GET /v1/activations/captures": {"object": "list", "data": [_CAPTURE]},
    "GET /v1/activations/captures/{capture_id}": _CAPTURE,
    "DELETE /v1/activations/captures/{capture_id}": {"id": "run-17", "object": "capture", "deleted": True},
    "POST /v1/activations/hooks": {"registered_hooks": ["attention_2"]},
    "GET /v1/activations/hooks": {"object": "list", "hooks": [_KEPT_HOOK]},
    "DELETE /v1/activations/hooks": {"status": "hooks cleared", "cleared_hooks": ["attention_2"]},
    "GET /v1/activations/presets": {
        "object": "list",
        "model": _MODEL_ID,
        "presets": [_PRESET],
        "scenarios": [
            {
                "name": "mathematical_reasoning",
                "description": "Sums with and without a carry.",
                "preset": "circuit_discovery",
                "requests": [
                    {
                        "model": _MODEL_ID,
                        "messages": [{"role": "user", "content": "What is 127 + 348?"}],
                        "max_tokens": 8,
                        "activation_hooks": [_KEPT_HOOK],
                        "activation_format": "metadata",
                    }
                ],
            }
        ],
    },
    "GET /v1/activations/presets/{name}": _PRESET,
}
"""Answers in JSON, by operation."""

STREAMS: dict[str, Any] = {
    "POST /v1/analysis/residual_stream": {
        "event": "ablated",
        "data": json.dumps({"type": "ablated", "prompt": 0, "metric": 7.6}),
    },
    "POST /v1/analysis/tuned_lens": {
        "event": "layer",
        "data": json.dumps({"type": "layer", **residual_examples.TUNED_LAYER}),
    },
    "POST /v1/analysis/attention": {"event": "label", "data": json.dumps({"type": "label", **_LABEL})},
    "POST /v1/analysis/attention/comparison": {
        "event": "result",
        "data": json.dumps({"type": "result", **_COMPARED}),
    },
    "POST /v1/analysis/composition": {"event": "result", "data": json.dumps({"type": "result", **_COMPOSED})},
    "POST /v1/analysis/interactions": {
        "event": "tried",
        "data": json.dumps({"type": "tried", "paths": [_INTERACTION]}),
    },
    "POST /v1/analysis/circuits": circuit_examples.POINT,
    "POST /v1/analysis/circuits/evaluate": circuit_examples.POINT,
    "POST /v1/experiments/attributions": json.dumps({"type": "end", "elapsed_seconds": 0.02, "forward_passes": 2.5})
    + "\n",
    "POST /v1/experiments/sweeps": json.dumps({"type": "values", "patches": [0, 1], "values": [-9.8, -6.9]}) + "\n",
    "POST /v1/chat/completions": {"data": json.dumps(_line({"content": "Hello"}))},
    "POST /v1/completions": {"data": json.dumps(_TEXT_CHUNK)},
    "POST /v1/responses": {"event": _DELTA["type"], "data": json.dumps(_DELTA)},
    "POST /v1/chat/completions/with_activations": json.dumps(
        _line({"content": "Hello"}) | {"activations": {"attention_2": [_ACTIVATION]}}
    )
    + "\n",
}
"""Pieces of streams, by operation."""

PARAMETERS: dict[str, Any] = {
    "dictionary_id": "resid_post_2",
    "model_id": _MODEL_ID,
    "capture_id": "run-17",
    "tensor": 0,
    "step": 0,
    "row": 0,
    "Range": "bytes=0-4095",
    "If-Range": '"9f86d081884c7d65"',
    "hook_ids": ["attention_2"],
    "model": _MODEL_ID,
    "name": "circuit_discovery",
    "layers": [0, 2],
    "names": ["qk", "W_out"],
    "summaries": True,
    "weight": "W_Q",
    "layer": 2,
    "heads": [0, 5],
    "experts": [1],
    "dtype": "float32",
    "format": "binary",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
"""Parameters of paths, queries and headers."""

ERROR: dict[str, Any] = {
    "error": {
        "message": "activation_hooks[0].component: 'atention' is no component; did you mean attention?",
        "type": "invalid_request_error",
        "param": "activation_hooks[0].component",
        "code": "unknown_site",
    }
}
