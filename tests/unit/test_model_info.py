"""neuroscope.vocabulary.model_info and tables: what a model offers, for programs and for eyes."""

import re

import pytest

from neuroscope import ModelInfo, UnavailableSiteError, UnknownSiteError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.viz.tables import as_text, layer_ranges
from neuroscope.vocabulary.sites import COMPONENTS, Point


def point(component: str, layer: int | None = None, reason: str = "", is_input: bool = False) -> pb.HookPoint:
    return pb.HookPoint(
        site=Point(component, layer, is_input).to_message(),
        available=not reason,
        reason=reason,
        axes=COMPONENTS[component].axes,
        dtype=tensor_pb2.DATA_TYPE_BFLOAT16,
        module_path="model.embed_tokens" if layer is None else f"model.layers.{layer}",
    )


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def info() -> ModelInfo:
    model = pb.Model(
        model_id="tiny", architecture="llama", num_layers=4, d_model=64, num_heads=8, parameter_count=1_500_000,
        dtype=tensor_pb2.DATA_TYPE_BFLOAT16,
    )  # fmt: skip
    points = [point("embedding")]
    points += [point("resid_post", layer) for layer in range(4)]
    points += [point("mlp_out", layer, is_input=True) for layer in range(4)]
    points += [point("mlp_neurons", layer, "a mixture layer" if layer == 2 else "") for layer in range(4)]
    points += [point("router_logits", layer, "this model has no experts") for layer in range(4)]
    return ModelInfo(pb.GetModelResponse(model=model, points=points, self_test=pb.SelfTest(logits_identical=True)))


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("resid_post", 3, True),
        ("resid_post", -1, True),
        ("resid_post.2", None, True),
        ("blocks.2.hook_resid_post", None, True),
        ("residual", 0, True),
        ("embedding", None, True),
        ("mlp.1.input", None, True),
        ("mlp_neurons", 2, False),
        ("mlp_neurons", None, True),
        ("router_logits", 0, False),
        ("router_logits", None, False),
        ("ln1", 0, False),
    ],
)
def test_availability_in_every_spelling(info, name, layer, expected):
    assert info.available(name, layer) is expected


def test_a_point_says_why_it_is_not_available(info):
    assert info.point("router_logits", 1).reason == "this model has no experts"
    assert info.point("resid_post", -1).module_path == "model.layers.3"


def test_names_that_resolve_to_nothing_are_errors(info):
    with pytest.raises(UnknownSiteError, match="nearest: resid_post"):
        info.available("resid_pst", 0)
    with pytest.raises(UnknownSiteError, match="layers 0 to 3"):
        info.available("resid_post", 4)
    with pytest.raises(UnavailableSiteError, match="says nothing of"):
        info.point("ln1", 0)


def test_what_the_response_says_is_there(info):
    assert info.model_id == "tiny"
    assert info.self_test.logits_identical
    assert len(info.points) == 17


def test_the_notebook_shows_a_table_of_points_by_layer(info):
    text = as_text(info.table())
    assert "tiny: llama, 4 layers, d_model 64, 8 heads, 1.5 M parameters, bfloat16" in text
    assert re.search(r"resid_post +0-3 +batch, position, d_model +bfloat16 +model.layers.N", text)
    assert re.search(r"mlp_out.input +0-3", text)
    assert re.search(r"mlp_neurons +0-1, 3 ", text)
    assert re.search(r"mlp_neurons +2 .*a mixture layer", text)
    assert re.search(r"router_logits +0-3 .*no experts", text)
    bundle = info._repr_mimebundle_()
    assert bundle["text/plain"] == text
    assert "resid_post" in bundle["text/html"]


@pytest.mark.parametrize(
    ("layers", "expected"), [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([5, 0, 1, 7, 8], "0-1, 5, 7-8"), ([2, 2], "2")]
)
def test_ranges_of_layers(layers, expected):
    assert layer_ranges(layers) == expected


@pytest.mark.parametrize(("columns", "widest"), [("40", 80), ("100", 100), ("500", 160)])
def test_a_table_is_as_wide_as_the_terminal_within_reason(info, monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    text = as_text(info.table())
    assert max(map(len, text.splitlines())) <= widest
    assert "…" not in text
