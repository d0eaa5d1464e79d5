"""Loading quantised weights, adapters, and configurations that mlx-lm alone would silently misread.

python -m pytest tests/integration/test_loading_variants.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuroscope.errors import ModelUnsupportedError
from neuroscope_inference.engine.loading import LoadRequest, load
from neuroscope_inference.engine.model import LoadedModel
from tests.support.loaded import load_here, logits_of_steps, read_all
from tests.support.plain_mlx import load_plain, plain_logits
from tests.support.random_models import make_model
from tests.support.variants import make_adapter, quantise

PROMPT = [0, *np.random.default_rng(3).integers(5, 500, 19).tolist()]
CONTINUATION = np.random.default_rng(4).integers(5, 500, 4).tolist()
ROUTING = {"router_logits", "expert_indices", "expert_weights"}


def components(model: LoadedModel) -> set[str]:
    """Components that are there in a layer at least."""
    return {state.point.component for state in model.layout.states if not state.reason}


def assert_hooks_hold(model: LoadedModel, plain: Any) -> None:
    """Every point read, logits are those of the plain model bit for bit, and no identity fails."""
    expected = logits_of_steps(plain, PROMPT, CONTINUATION)
    for a, b in zip(logits_of_steps(model.network, PROMPT, CONTINUATION, read_all(model)), expected, strict=True):
        assert mx.array_equal(a, b).item()
    assert not [check for check in model.self_test.identities if check.failed_layers]


def same_logits(a: Any, b: Any) -> bool:
    return bool(mx.array_equal(plain_logits(a, PROMPT), plain_logits(b, PROMPT)).item())


# ------------------------------------------------------------------------------------------------ quantised weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "gpt_neox"])
def test_quantised_weights_keep_every_point(
    tmp_path: Path, family: str, bits: int, dtype: str, family_model: Callable[[str], LoadedModel]
) -> None:
    folder = make_model(family, tmp_path / family)
    whole = components(family_model(family))
    model = load_here(quantise(folder, bits=bits, dtype=dtype))
    assert model.description.weights_bytes < 0.5 * model.description.parameter_count * 4
    assert components(model) == whole
    assert_hooks_hold(model, load_plain(folder)[0])
    tolerances = {check.tolerance for check in model.self_test.identities}
    assert tolerances == {{"float32": 1e-5, "bfloat16": 5e-2}[dtype]}


# ------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("llama", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]),
        ("gpt2", ["attn.c_attn", "mlp.c_proj"]),
        ("mixtral", ["self_attn.v_proj", "block_sparse_moe.gate"]),
    ],
)
def test_an_adapter_changes_the_model_and_no_hook(
    tmp_path: Path, family: str, keys: list[str], family_model: Callable[[str], LoadedModel]
) -> None:
    folder = make_model(family, tmp_path / family)
    adapter = make_adapter(tmp_path / "adapter", folder, keys)
    *_, model = load(LoadRequest(folder, str(folder), "adapted", str(adapter)))
    assert isinstance(model, LoadedModel)
    base = family_model(family)
    assert components(model) == components(base)
    assert not same_logits(model.network, base.network)
    assert_hooks_hold(model, mlx_lm.load(str(folder), adapter_path=str(adapter))[0])


# ------------------------------------------------------------------------------------------------ configurations


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes entries of config.json; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def as_written_by_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """Changes of config.json from the names of mlx-lm to those of transformers 5."""
    rope = {"rope_theta": config.get("rope_theta"), "rope_type": "default"}
    match config["model_type"]:
        case "gpt_neox":
            rope |= {"rope_theta": config["rotary_emb_base"], "partial_rotary_factor": config["rotary_pct"]}
            return {"rope_parameters": rope, "rotary_emb_base": None, "rotary_pct": None}
        case "gemma3_text":
            local = {"rope_theta": config["rope_local_base_freq"], "rope_type": "default"}
            types = ["sliding_attention", "full_attention"] * 2
            by_type = {"rope_parameters": {"full_attention": rope, "sliding_attention": local}, "layer_types": types}
            return by_type | dict.fromkeys(("rope_theta", "rope_local_base_freq", "sliding_window_pattern"))
        case "cohere2":
            types = ["sliding_attention", "full_attention"] * 2
            return {"rope_parameters": rope, "layer_types": types, "rope_theta": None, "sliding_window_pattern": None}
        case _:
            return {"rope_parameters": rope, "rope_theta": None}


@pytest.mark.parametrize(
    "family",
    ["llama", "qwen2", "qwen3", "mixtral", "gemma2", "gemma3_text", "olmo2", "phi3", "gpt_oss", "cohere2", "gpt_neox"],
)
def test_what_transformers_5_writes_is_read_as_it_is_meant(tmp_path: Path, family: str) -> None:
    theta: dict[str, Any] = {"rotary_emb_base": 777} if family == "gpt_neox" else {"rope_theta": 777.0}
    if family == "gemma3_text":
        theta["rope_local_base_freq"] = 55.0
    folder = make_model(family, tmp_path / family, **theta)
    meant = load_here(folder)
    rewrite(folder, **as_written_by_transformers(json.loads((folder / "config.json").read_text())))
    assert same_logits(load_here(folder).network, meant.network)
    if family not in ("qwen3", "gpt_neox", "gemma3_text"):  # mlx-lm's own care; errors there
        assert not same_logits(load_plain(folder)[0], meant.network)


def test_scaled_rotary_embeddings_are_read(tmp_path: Path) -> None:
    scaling = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folder = make_model("llama", tmp_path / "llama", rope_scaling={"rope_type": "llama3", **scaling})
    meant = load_here(folder)
    rewrite(folder, rope_scaling=None, rope_parameters={"rope_theta": 10000.0, "rope_type": "llama3", **scaling})
    assert same_logits(load_here(folder).network, meant.network)
    assert not same_logits(load_plain(folder)[0], meant.network)


def test_a_nested_configuration_is_mended_where_it_is(tmp_path: Path) -> None:
    folder = make_model("llama4", tmp_path / "llama4")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    rewrite(folder, text_config=text | {"rope_theta": 777.0})
    meant = load_here(folder)
    nested = {name: value for name, value in text.items() if name != "rope_theta"}
    rewrite(folder, text_config=nested | {"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}})
    assert same_logits(load_here(folder).network, meant.network)


def test_a_head_of_its_own_is_not_taken_for_the_embedding(tmp_path: Path) -> None:
    """transformers 4 left `tie_word_embeddings: false` out, as its own default; mlx-lm's default is true."""
    folder = make_model("llama", tmp_path / "llama")
    meant = load_here(folder)
    rewrite(folder, tie_word_embeddings=None)
    assert same_logits(load_here(folder).network, meant.network)
    assert not same_logits(load_plain(folder)[0], meant.network)


def test_qwen3_moe_counts_its_experts_under_either_name(tmp_path: Path) -> None:
    folder = make_model("qwen3_moe", tmp_path / "qwen3_moe")
    meant = load_here(folder)
    rewrite(folder, num_experts=None, num_local_experts=8)
    assert same_logits(load_here(folder).network, meant.network)


def test_gpt2_as_transformers_writes_it(tmp_path: Path) -> None:
    """No n_ctx, weights below `transformer.`, matrices the other way round, buffers beside them."""
    folder = make_model("gpt2", tmp_path / "gpt2")
    meant = load_here(folder)
    weights: dict[str, Any] = {}
    for name, array in load_file(folder / "model.safetensors").items():
        is_conv1d = array.ndim == 2 and any(part in name for part in ("c_attn", "c_proj", "c_fc"))
        weights[name.replace("model.", "transformer.")] = np.ascontiguousarray(array.T) if is_conv1d else array
    weights["lm_head.weight"] = weights["transformer.wte.weight"].copy()
    for layer in range(4):
        weights[f"transformer.h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.float32))
        weights[f"transformer.h.{layer}.attn.masked_bias"] = np.array([-1e4], np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(folder, n_ctx=None)
    assert same_logits(load_here(folder).network, meant.network)


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gemma2", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "rope_scaling"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("phi3", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.type"),
        (
            "cohere2",
            {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
            "layer_types",
        ),
    ],
)
def test_what_mlx_lm_cannot_be_told_is_refused_by_name(
    tmp_path: Path, family: str, changes: dict[str, Any], key: str
) -> None:
    folder = make_model(family, tmp_path / family)
    rewrite(folder, **changes)
    with pytest.raises(ModelUnsupportedError, match=key) as caught:
        load_here(folder)
    assert caught.value.field == "model_path"


@pytest.mark.parametrize(
    ("family", "changes", "positions"),
    [
        ("mistral", {"sliding_window": 100}, 100),
        ("mistral", {"sliding_window": None}, 4096),
        ("gemma2", {"sliding_window": 100}, 100),
        ("phi3", {"sliding_window": 100}, 100),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": False}, 4096),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": True}, 100),
        ("gemma3_text", {}, 4096),
        ("cohere2", {}, 4096),
        ("llama", {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 2}, 4096),
    ],
)
def test_a_window_that_mlx_lm_does_not_know_bounds_the_context(
    tmp_path: Path, family: str, changes: dict[str, Any], positions: int
) -> None:
    folder = make_model(family, tmp_path / family)
    rewrite(folder, **changes)
    assert load_here(folder).description.context_length == positions
