"""The numpy reference agrees with mlx-lm's plain forward pass, and would notice if it did not.

pytest tests/unit/test_numpy_forward.py
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import numpy_forward
from tests.support.compare import assert_close, relative_error
from tests.support.numpy_forward import MASKED_SCORE, Array, forward
from tests.support.plain_mlx import load_plain, plain_logits
from tests.support.random_models import make_model

TOLERANCE = 5e-6
TOKEN_IDS = np.random.default_rng(7).integers(5, 512, size=24).tolist()


@dataclass(frozen=True)
class Case:
    family: str
    overrides: dict[str, Any] = field(default_factory=dict)


CASES = {
    "llama": Case("llama"),
    "llama-tied": Case("llama", {"tie_word_embeddings": True}),
    "llama-biases": Case("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-theta": Case("llama", {"rope_theta": 500000.0}),
    "llama-head-dim": Case("llama", {"head_dim": 32}),
    "llama-sliding": Case("llama", {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 8}),
    "gpt2": Case("gpt2"),
    "qwen2": Case("qwen2"),
    "qwen3": Case("qwen3"),
}


@pytest.fixture(scope="module", params=CASES)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = CASES[request.param]
    return make_model(case.family, tmp_path_factory.mktemp(request.param), **case.overrides)


def mlx_forward(folder: Path, token_ids: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Final norm (B, T, d_model) and logits (B, T, vocab) from mlx-lm, without a cache.

    On the CPU everywhere: what is tested is the reference, not a GPU's rounding.
    """
    with mx.stream(mx.cpu):
        model, _ = load_plain(folder)
        return np.array(model.model(mx.array([token_ids]))), np.array(plain_logits(model, token_ids))


def changed_config(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of the model whose config.json says something else; the weights stay."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


@pytest.mark.parametrize("length", [1, 2, 24])
def test_agrees_with_mlx_lm(model_dir: Path, length: int) -> None:
    final_norm, logits = mlx_forward(model_dir, TOKEN_IDS[:length])
    reference = forward(model_dir, TOKEN_IDS[:length])
    assert_close("final_norm", final_norm, reference["final_norm", None], tolerance=TOLERANCE)
    assert_close("logits", logits, reference["logits", None], tolerance=TOLERANCE)


def test_residual_stream_is_the_sum_of_what_was_written(model_dir: Path) -> None:
    seen = forward(model_dir, TOKEN_IDS)
    total = seen["resid_pre", 0]
    for layer in range(4):
        pre, mid, post = (seen[component, layer] for component in ("resid_pre", "resid_mid", "resid_post"))
        attention, mlp = seen["attn_contrib", layer], seen["mlp_contrib", layer]
        assert np.array_equal(pre + attention, mid)
        assert np.array_equal(mid + mlp, post)
        assert np.array_equal(attention, seen["attn_out", layer])
        assert np.array_equal(mlp, seen["mlp_out", layer])
        if layer > 0:
            assert np.array_equal(pre, seen["resid_post", layer - 1])
        total = total + attention + mlp
    assert_close("sum of contributions", total, seen["resid_post", 3], tolerance=1e-14)


def test_attention_pattern_is_causal_and_normalised(model_dir: Path) -> None:
    seen = forward(model_dir, TOKEN_IDS)
    future = ~np.tri(len(TOKEN_IDS), dtype=bool)
    for layer in range(4):
        scores, pattern = seen["attention_scores", layer], seen["attention_pattern", layer]
        assert np.all(scores[..., future] == MASKED_SCORE)
        assert np.all(pattern[scores == MASKED_SCORE] == 0.0)
        assert_close("row sums", pattern.sum(axis=-1), np.ones(pattern.shape[:-1]), tolerance=1e-14)


def test_later_tokens_change_nothing_before_them(model_dir: Path) -> None:
    full, prefix = forward(model_dir, TOKEN_IDS), forward(model_dir, TOKEN_IDS[:10])
    assert_close("logits", full["logits", None][:, :10], prefix["logits", None], tolerance=1e-12)


def test_shapes_of_a_grouped_query_llama(llama_dir: Path) -> None:
    seen = forward(llama_dir, TOKEN_IDS)
    stream, queries, keys, square = (1, 24, 128), (1, 24, 8, 16), (1, 24, 2, 16), (1, 8, 24, 24)
    per_layer = {
        **dict.fromkeys(("resid_pre", "resid_mid", "resid_post", "ln1", "ln2"), stream),
        **dict.fromkeys(("attn_out", "mlp_out", "attn_contrib", "mlp_contrib"), stream),
        **dict.fromkeys(("q_proj", "query", "head_output"), queries),
        **dict.fromkeys(("k_proj", "key", "value"), keys),
        **dict.fromkeys(("attention_scores", "attention_pattern"), square),
        "mlp_neurons": (1, 24, 320),
    }
    expected = {(component, layer): shape for component, shape in per_layer.items() for layer in range(4)}
    expected |= {("embedding", None): stream, ("final_norm", None): stream, ("logits", None): (1, 24, 512)}
    assert {name: tensor.shape for name, tensor in seen.items()} == expected
    assert {tensor.dtype for tensor in seen.values()} == {np.dtype(np.float64)}


def test_gpt2_embedding_comes_before_positions(gpt2_dir: Path) -> None:
    seen = forward(gpt2_dir, [9, 9, 9])
    assert np.array_equal(seen["embedding", None][0, 0], seen["embedding", None][0, 2])
    assert not np.array_equal(seen["resid_pre", 0][0, 0], seen["resid_pre", 0][0, 2])


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("llama", {"rope_theta": 500000.0}),
        ("llama", {"rms_norm_eps": 1e-2}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama-sliding", {"sliding_window": 9}),
        ("llama-sliding", {"layer_types": ["full_attention"] * 4}),
        ("gpt2", {"layer_norm_epsilon": 1e-2}),
        ("gpt2", {"n_head": 4}),
    ],
)
def test_wrong_config_is_caught(tmp_path: Path, case: str, changes: dict[str, Any]) -> None:
    right = make_model(CASES[case].family, tmp_path / "right", **CASES[case].overrides)
    _, logits = mlx_forward(right, TOKEN_IDS)
    wrong = forward(changed_config(right, tmp_path / "wrong", **changes), TOKEN_IDS)
    assert relative_error(logits, wrong["logits", None]) > 1e-3


right_rotate = numpy_forward.rotate


def rotate_neighbours(x: Array, positions: NDArray[np.int64], theta: float) -> Array:
    """The paper's pairing, which mlx calls traditional."""
    order = np.concatenate([np.arange(0, x.shape[-1], 2), np.arange(1, x.shape[-1], 2)])
    return right_rotate(x[..., order], positions, theta)[..., np.argsort(order)]


def rotate_late(x: Array, positions: NDArray[np.int64], theta: float) -> Array:
    """Positions from the twelfth on are one too high, as after a cache that lost count."""
    return right_rotate(x, positions + positions // 12, theta)


def repeat_in_turns(x: Array, shared: int) -> Array:
    """Heads 0 1 0 1 ... instead of 0 0 ... 1 1."""
    return np.tile(x, (1, 1, shared, 1))


def no_mask(length: int, window: int | None) -> NDArray[np.bool_]:
    """The future is visible."""
    assert window is None
    return np.ones((length, length), dtype=bool)


@pytest.mark.parametrize(
    ("family", "function", "wrong"),
    [
        ("llama", "rotate", rotate_neighbours),
        ("llama", "rotate", rotate_late),
        ("llama", "repeat_heads", repeat_in_turns),
        ("llama", "silu", numpy_forward.gelu_tanh),
        ("gpt2", "gelu_tanh", numpy_forward.silu),
        ("gpt2", "attention_mask", no_mask),
    ],
    ids=["rotary pairing", "rotary positions", "head order", "silu", "gelu", "mask"],
)
def test_wrong_formula_is_caught(
    family: str,
    function: str,
    wrong: Callable[..., Any],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder: Path = request.getfixturevalue(f"{family}_dir")
    _, logits = mlx_forward(folder, TOKEN_IDS)
    monkeypatch.setattr(numpy_forward, function, wrong)
    assert relative_error(logits, forward(folder, TOKEN_IDS)["logits", None]) > 1e-3


@pytest.mark.parametrize("parameter", ["input_layernorm.weight", "post_attention_layernorm.weight"])
def test_wrong_weight_is_caught(llama_dir: Path, parameter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, logits = mlx_forward(llama_dir, TOKEN_IDS)
    load_file = numpy_forward.load_file

    def without_norm_weight(file: Path) -> dict[str, NDArray[Any]]:
        weights = load_file(file)
        name = f"model.layers.2.{parameter}"
        return weights | {name: np.ones_like(weights[name])}

    monkeypatch.setattr(numpy_forward, "load_file", without_norm_weight)
    assert relative_error(logits, forward(llama_dir, TOKEN_IDS)["logits", None]) > 1e-3


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("llama", {"rope_traditional": True}),
        ("gpt2", {"model_type": "gpt_neox"}),
    ],
)
def test_refuses_what_it_does_not_compute(
    family: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"{family}_dir")
    with pytest.raises(NotImplementedError):
        forward(changed_config(folder, tmp_path / "changed", **changes), TOKEN_IDS)
