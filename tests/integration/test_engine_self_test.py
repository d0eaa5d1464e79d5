"""The self-test withdraws what is not what its name promises.

python -m pytest tests/integration/test_engine_self_test.py
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from safetensors.numpy import load_file, save_file

from neuroscope.errors import ModelUnsupportedError, UnavailableSiteError
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine import identities, qkv_layout, routing, self_test
from neuroscope_inference.engine.model import LoadedModel
from tests.support.loaded import load_here
from tests.support.random_models import make_model

IDENTITIES = {
    "resid_pre + attn_contrib == resid_mid",
    "resid_mid + mlp_contrib == resid_post",
    "resid_post == next layer's resid_pre",
    "attention_pattern @ value == head_output",
    "output_projection(head_output) == attn_out",
    "down_projection(mlp_neurons) == mlp_out",
    "embedding(tokens) == embedding",
    "final_norm(last resid_post) == final_norm",
    "ln1 == attn_out.input",
    "ln2 == mlp_out.input",
    "norm(resid_pre) == ln1",
    "norm(resid_mid) == ln2",
    "attn_contrib follows from attn_out",
    "mlp_contrib follows from mlp_out",
    "q_proj points where query does at position 0",
    "k_proj points where key does at position 0",
    "q_proj follows from attn_out.input",
    "k_proj follows from attn_out.input",
    "mlp(mlp_out.input) == mlp_out",
}


def withdrawn(model: LoadedModel) -> dict[str, set[int | None]]:
    """Components that the self-test took back, with their layers."""
    found: dict[str, set[int | None]] = {}
    for state in model.layout.states:
        if "self-test" in state.reason:
            found.setdefault(state.point.component, set()).add(state.point.layer)
    return found


def shifted(call: Callable[..., Any]) -> Callable[..., Any]:
    """The module's output with a constant on top, which its parts do not know of."""

    def call_and_add(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs) + 0.5

    return call_and_add


def test_every_identity_is_checked_on_a_sound_model(llama_dir: Path) -> None:
    model = load_here(llama_dir)
    assert {identity.name for identity in model.self_test.identities} == IDENTITIES
    assert not withdrawn(model)


@pytest.mark.parametrize(
    ("broken", "components", "identity"),
    [
        (llama.TransformerBlock, {"mlp_contrib"}, "resid_mid + mlp_contrib == resid_post"),
        (llama.Attention, {"head_output"}, "output_projection(head_output) == attn_out"),
        (llama.MLP, {"mlp_neurons"}, "down_projection(mlp_neurons) == mlp_out"),
    ],
    ids=["block", "attention", "mlp"],
)
def test_a_part_that_adds_a_constant_loses_its_points(
    llama_dir: Path, monkeypatch: pytest.MonkeyPatch, broken: type, components: set[str], identity: str
) -> None:
    monkeypatch.setattr(broken, "__call__", shifted(broken.__call__))
    monkeypatch.setattr("neuroscope_inference.engine.hook_plan._swapped_classes", {})
    model = load_here(llama_dir)
    assert withdrawn(model) == {component: set(range(4)) for component in components}
    (failed,) = [check for check in model.self_test.identities if check.failed_layers]
    assert failed.name == identity
    assert list(failed.failed_layers) == [0, 1, 2, 3]
    assert failed.worst_relative_error > failed.tolerance
    for component in components:
        with pytest.raises(UnavailableSiteError, match="self-test"):
            model.require_point(Point(component, 2), "hooks[0].site.component")


def test_only_the_broken_layer_loses_its_points(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = llama.MLP.__call__
    broken = load_file(llama_dir / "model.safetensors")["model.layers.2.mlp.down_proj.weight"][0, 0]
    monkeypatch.setattr(
        llama.MLP, "__call__", lambda self, x: plain(self, x) + (self.down_proj.weight[0, 0] == float(broken))
    )
    monkeypatch.setattr("neuroscope_inference.engine.hook_plan._swapped_classes", {})
    assert withdrawn(load_here(llama_dir)) == {"mlp_neurons": {2}}


def test_a_model_whose_logits_differ_from_run_to_run_is_refused(
    llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = llama.MLP.__call__
    calls = iter(range(100))
    monkeypatch.setattr(llama.MLP, "__call__", lambda self, x: plain(self, x) + next(calls))
    monkeypatch.setattr("neuroscope_inference.engine.hook_plan._swapped_classes", {})
    with pytest.raises(ModelUnsupportedError, match="logits"):
        load_here(llama_dir)


def test_points_that_hold_nan_are_not_taken_for_proved(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    model = load_here(folder)
    assert model.layout.state(Point("mlp_neurons", 1)).reason
    assert model.layout.state(Point("mlp_contrib", 1)).reason
    assert not model.layout.state(Point("mlp_contrib", 0)).reason
    (check,) = [c for c in model.self_test.identities if c.name == "resid_mid + mlp_contrib == resid_post"]
    assert list(check.failed_layers) == [1, 2, 3]
    assert check.worst_relative_error == np.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_pass_with_their_own_tolerance(tmp_path: Path, dtype: str) -> None:
    folder = make_model("llama", tmp_path / dtype)
    weights = {name: mx.array(array) for name, array in load_file(folder / "model.safetensors").items()}
    cast = {name: array.astype(getattr(mx, dtype)) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), cast, metadata={"format": "mlx"})
    model = load_here(folder)
    assert not withdrawn(model)
    assert {check.tolerance for check in model.self_test.identities} == {{"float16": 1e-2, "bfloat16": 5e-2}[dtype]}
    assert model.layout.state(Point("resid_post", 0)).dtype == getattr(mx, dtype)


def test_a_model_of_one_layer_is_tested(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "one layer", num_hidden_layers=1)
    model = load_here(folder)
    assert {check.name for check in model.self_test.identities} == IDENTITIES - {"resid_post == next layer's resid_pre"}


def test_a_layer_s_tensors_are_let_go_of_before_the_next_runs(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    held_before: list[int] = []
    plain = self_test.PointVerifier.verify_layer

    def layer(self: self_test.PointVerifier, layer: int, seen: identities.Activations) -> None:
        assert {point.layer for point in seen} == {layer}
        held.append(sum(array.nbytes for array in seen.values()))
        gc.collect()
        baseline = mx.get_active_memory()
        plain(self, layer, seen)
        held_before.append(baseline)

    monkeypatch.setattr(self_test.PointVerifier, "verify_layer", layer)
    load_here(llama_dir)
    assert len(held) == 4
    caches = 2 * 2 * 256 * 2 * 16 * 4  # keys and values of the two layers in between, in mlx-lm's steps of 256
    assert held_before[3] - held_before[1] - caches < held[0] / 4


def test_two_forward_passes_and_short_probes_are_all_there_is(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Any] = []
    plain = llama.Model.__call__
    monkeypatch.setattr(
        llama.Model, "__call__", lambda self, *args, **kwargs: passes.append(args) or plain(self, *args, **kwargs)
    )
    monkeypatch.setattr("neuroscope_inference.engine.hook_plan._swapped_classes", {})
    load_here(llama_dir)
    lengths = [tokens.shape[1] for tokens, *_ in passes]
    assert lengths[:2] == [8, 8]
    assert len(lengths) == 13  # what the model can do besides is probed with a few tokens
    assert max(lengths[2:]) <= 5


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "llama4"])
def test_weights_of_experts_that_do_not_add_up_are_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """A rule of weights that is wrong explains no layer's output, so nothing is published under the name."""
    for rule, function in list(routing.RULES.items()):
        monkeypatch.setitem(routing.RULES, rule, lambda *args, right=function: 0.9 * right(*args))
    model = load_here(make_model(family, tmp_path / family))
    points = [state for state in model.layout.states if state.point.component == "expert_weights"]
    assert all(state.reason for state in points)
    assert any("no rule" in state.reason for state in points)


def test_projections_read_in_another_order_are_put_right(tmp_path: Path) -> None:
    for family, order in (("gpt_neox", "by group"), ("gpt2", "side by side"), ("phi3", "side by side")):
        model = load_here(make_model(family, tmp_path / family))
        assert {columns.order for columns in model.layout.columns} == {order}, family


def test_projections_in_no_known_order_are_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(qkv_layout.ORDERS, "by group")
    found = withdrawn(load_here(make_model("gpt_neox", tmp_path / "gpt_neox")))
    assert {"q_proj", "k_proj"} <= set(found)
