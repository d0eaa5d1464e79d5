"""config.json as mlx-lm reads it, where it would silently read something else.

mlx-lm takes from a configuration the keys that it knows and leaves the rest. transformers 5 writes some under other
names, so a model would run with a default in place of what it was trained with, and nobody would be told. What can be
said in mlx-lm's names is said so; what cannot is refused, by the name of its key.

    written by transformers                         read by mlx-lm
    rope_parameters.rope_theta                      rope_theta; rotary_emb_base (gpt_neox)
    rope_parameters.rope_type and its factors       rope_scaling, with the key `type`
    rope_parameters.partial_rotary_factor           partial_rotary_factor; rotary_pct (gpt_neox)
    rope_parameters.sliding_attention.rope_theta    rope_local_base_freq (gemma3)
    layer_types                                     sliding_window_pattern (gemma3, cohere2)
    num_local_experts                               num_experts (qwen3_moe)
    no tie_word_embeddings, but a head's weights    tie_word_embeddings: false (mlx-lm's default is true)
    no n_ctx                                        n_ctx (gpt2)
    transformer.h.0...                              h.0... (gpt2's weights)
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import MODEL_REMAPPING, _get_classes  # pyright: ignore[reportPrivateUsage]  # load_model's own default

from neuroscope.errors import ModelUnsupportedError

Config = Mapping[str, Any]

_SILU = frozenset({"silu", "swish"})
_GELU_TANH = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu_fast"})
_ACTIVATIONS: dict[str, frozenset[str]] = {  # what mlx-lm computes, whatever the configuration says
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "phi3", "olmo2", "cohere2"), _SILU),
    **dict.fromkeys(("granite", "granitemoe", "llama4_text"), _SILU),
    **dict.fromkeys(("gemma2", "gemma3_text", "gpt2"), _GELU_TANH),
    "gpt_neox": _GELU_TANH | {"gelu"},  # mlx-lm takes the tanh form for both, about 1e-3 apart
}
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")  # the first that is there decides
_NEEDS_LAYER_TYPES = frozenset({"llama", "ministral3"})  # a window without layer_types is of no layer to mlx-lm
_ROPE_KEYS = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


def config_overrides(config: Config, weight_names: Collection[str]) -> dict[str, Any]:
    """Entries to change or add, so that mlx-lm reads what the configuration says.

    Args:
        config: config.json.
        weight_names: names of the tensors in the model's files.

    Raises:
        ModelUnsupportedError: mlx-lm cannot be told what an entry says; names the key.
    """
    text = config.get("text_config")
    if not isinstance(text, dict):
        return _overrides(config, config, weight_names)
    changes = _overrides({"model_type": config.get("model_type"), **text}, config, weight_names)
    return {"text_config": {**text, **changes}} if changes else {}


def max_exact_positions(config: Config) -> int:
    """Positions up to which mlx-lm computes what the configuration says; 0: all that the context has.

    Some of its models know no sliding window. Up to the length of the window nobody can tell.
    """
    fields = _read_fields(config)
    window = config.get("sliding_window")
    if not isinstance(window, int) or not fields or config.get("use_sliding_window") is False:
        return 0
    types = config.get("layer_types")
    if isinstance(types, list) and "sliding_attention" not in types:
        return 0
    model_type = MODEL_REMAPPING.get(str(config.get("model_type")), config.get("model_type"))
    is_read = "sliding_window" in fields and (types is not None or model_type not in _NEEDS_LAYER_TYPES)
    return 0 if is_read else window


def tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in a model's files, from their headers."""
    names = set[str]()
    for file in folder.glob("model*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                continue  # damaged: reading it will say so
            try:
                names.update(json.loads(stream.read(length)))
            except ValueError:
                continue
    return names


def model_classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's model class and the class of its configuration; gpt2's takes the names that transformers gives weights.

    Raises:
        ValueError: mlx-lm has no such architecture.
    """
    model_class, arguments = _get_classes(config)
    return (_without_prefix(model_class) if config["model_type"] == "gpt2" else model_class), arguments


def _without_prefix(model_class: type[nn.Module]) -> type[nn.Module]:
    def sanitize(self: Any, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        plain = {name.removeprefix("transformer."): array for name, array in weights.items()}
        plain.pop("lm_head.weight", None)  # tied
        for layer in range(self.args.n_layer):
            plain.pop(f"h.{layer}.attn.masked_bias", None)
        return model_class.sanitize(self, plain)  # type: ignore[attr-defined]  # nn.Module declares none

    return type(model_class.__name__, (model_class,), {"sanitize": sanitize, "__module__": model_class.__module__})


def _overrides(part: Config, whole: Config, weight_names: Collection[str]) -> dict[str, Any]:
    fields = _read_fields(part) or _read_fields(whole)
    if not fields:
        return {}
    _check_activation(part)
    changes = _rope_overrides(part, fields)
    if (pattern := _window_pattern(part, fields)) is not None:
        changes["sliding_window_pattern"] = pattern
    if "num_experts" in fields and "num_experts" not in part and "num_local_experts" in part:
        changes["num_experts"] = part["num_local_experts"]
    if "n_ctx" in fields and "n_ctx" not in part and "n_positions" in part:
        changes["n_ctx"] = part["n_positions"]
    is_silent = "tie_word_embeddings" in fields and "tie_word_embeddings" not in {**whole, **part}
    if is_silent and any(name.endswith("lm_head.weight") for name in weight_names):
        changes["tie_word_embeddings"] = False
    if part.get("model_type") == "gpt2":
        for key, expected in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
            if part.get(key, expected) != expected:
                raise _unsupported(key, part[key])
    return changes


def _rope_overrides(part: Config, fields: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    written = part.get("rope_parameters")
    if isinstance(written, dict) and "rope_parameters" not in fields:
        if isinstance(local := written.get("sliding_attention"), dict) and "rope_local_base_freq" in fields:
            changes["rope_local_base_freq"] = local.get("rope_theta", 10000.0)
            if local.get("rope_type", "default") != "default":
                raise _unsupported("rope_parameters.sliding_attention", local)
            written = written.get("full_attention", {})
        if any(isinstance(value, dict) for value in written.values()):
            raise _unsupported("rope_parameters", written)
        if "rope_theta" in written:
            names = [name for name in ("rope_theta", "rotary_emb_base") if name in fields]
            if not names:
                raise _unsupported("rope_parameters.rope_theta", written["rope_theta"])
            changes[names[0]] = written["rope_theta"]
        if written.get("partial_rotary_factor", 1.0) != 1.0:
            names = [name for name in ("partial_rotary_factor", "rotary_pct") if name in fields]
            if not names:
                raise _unsupported("rope_parameters.partial_rotary_factor", written["partial_rotary_factor"])
            changes[names[0]] = written["partial_rotary_factor"]
        kind = written.get("rope_type", written.get("type", "default"))
        if kind != "default":
            scaling = {name: value for name, value in written.items() if name not in _ROPE_KEYS}
            changes["rope_scaling"] = {"type": kind, "rope_type": kind, **scaling}
        original = written.get("original_max_position_embeddings")
        if original is not None and "original_max_position_embeddings" in fields:
            changes["original_max_position_embeddings"] = original
    scaling = changes.get("rope_scaling", part.get("rope_scaling"))
    if isinstance(scaling, dict):
        kind = scaling.get("type", scaling.get("rope_type", "default"))
        reads_it = "rope_scaling" in fields or "rope_parameters" in fields
        if kind != "default" and not reads_it:
            raise _unsupported("rope_scaling", scaling)
        if part.get("model_type") == "phi3" and kind not in ("longrope", "su", "linear"):
            raise _unsupported("rope_scaling.type", kind)
        if reads_it and "type" not in scaling and "rope_scaling" in fields:
            changes["rope_scaling"] = {"type": kind, **scaling}
    return changes


def _window_pattern(part: Config, fields: Mapping[str, Any]) -> int | None:
    """Every n-th layer sees all keys, the others a window: n, from the list of the layers' types."""
    types = part.get("layer_types")
    if "sliding_window_pattern" not in fields or "layer_types" in fields or not isinstance(types, list):
        return None
    full = "full_attention"
    pattern = types.index(full) + 1 if full in types else len(types) + 1
    if types != [full if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(len(types))]:
        raise _unsupported("layer_types", types)
    return pattern


def _check_activation(part: Config) -> None:
    computed = _ACTIVATIONS.get(str(part.get("model_type")))
    for key in _ACTIVATION_KEYS:
        if computed and isinstance(named := part.get(key), str):
            if named not in computed:
                raise _unsupported(key, named)
            return


def _read_fields(config: Config) -> dict[str, Any]:
    """The configuration entries that mlx-lm reads for a model type, of every class that its module declares."""
    model_type = str(config.get("model_type"))
    name = MODEL_REMAPPING.get(model_type, model_type)
    if not name.replace("_", "").replace("-", "").isalnum():
        return {}
    try:
        module = importlib.import_module(f"mlx_lm.models.{name}")
    except ImportError:
        return {}
    arguments = getattr(module, "ModelArgs", None)
    if not dataclasses.is_dataclass(arguments):
        return {}
    nested = [value for value in vars(module).values() if dataclasses.is_dataclass(value)]
    classes = nested if "text_config" in {field.name for field in dataclasses.fields(arguments)} else [arguments]
    return {field.name: field for found in classes for field in dataclasses.fields(found)}


def _unsupported(key: str, value: Any) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"config.json says {key}: {json.dumps(value, default=str)[:120]}, which mlx-lm would silently ignore for this "
        "architecture; the model would not be the one that was trained",
        field="model_path",
    )
