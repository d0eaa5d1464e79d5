"""neuroscope.vocabulary.sites: every spelling of a point resolves to it, and nothing else does."""

import pytest

from neuroscope.errors import UnknownSiteError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1.site_pb2 import SIDE_INPUT, SIDE_OUTPUT, Site
from neuroscope.vocabulary.sites import COMPONENTS, REST_NAMES, Point, parse, resolve


def points(site: Site | str, num_layers: int | None = 12) -> list[str]:
    return [str(point) for point in resolve(parse(site) if isinstance(site, str) else site, num_layers)]


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_resolves_in_every_layer_it_has(name):
    expected = [f"{name}.{layer}" for layer in range(3)] if COMPONENTS[name].has_layer else [name]
    assert points(name, 3) == expected


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_says_what_it_is_and_what_its_axes_mean(name):
    component = COMPONENTS[name]
    assert component.meaning
    assert component.axes[0] == tensor_pb2.AXIS_BATCH
    assert tensor_pb2.AXIS_POSITION in component.axes


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_point_comes_back_from_its_message_and_from_its_text(name):
    for is_input in {False, COMPONENTS[name].has_input}:
        point = Point(name, 3 if COMPONENTS[name].has_layer else None, is_input)
        assert Point.from_message(point.to_message()) == point
        assert points(str(point)) == [str(point)]


def test_the_ten_rest_names_are_all_there():
    assert set(REST_NAMES) == {
        "residual", "attention", "mlp", "embedding", "layernorm", "attention_scores", "attention_pattern", "key",
        "query", "value",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("component", "output", "read"),
    [
        ("residual", "resid_post.5", "resid_pre.5"),
        ("attention", "attn_out.5", "attn_out.5.input"),
        ("mlp", "mlp_out.5", "mlp_out.5.input"),
        ("layernorm", "ln1.5", "resid_pre.5"),
        ("attention_pattern", "attention_pattern.5", "attention_scores.5"),
        ("key", "key.5", "k_proj.5"),
        ("query", "query.5", "q_proj.5"),
    ],
)
def test_both_sides_of_the_rest_names(component, output, read):
    assert points(Site(component=component, layer=5)) == [output]
    assert points(Site(component=component, layer=5, side=SIDE_OUTPUT)) == [output]
    assert points(Site(component=component, layer=5, side=SIDE_INPUT)) == [read]


@pytest.mark.parametrize("component", ["value", "attention_scores", "embedding"])
def test_rest_names_without_an_input_say_so(component):
    with pytest.raises(UnknownSiteError, match="no input") as caught:
        points(Site(component=component, side=SIDE_INPUT))
    assert caught.value.field == "site.side"


@pytest.mark.parametrize(
    "layer_name",
    ["transformer.h.5", "model.layers.5", "model.h.5", "blocks.5", "layers.5", "h.5", "gpt_neox.layers.5",
     "language_model.model.layers.5"],
)  # fmt: skip
def test_layers_in_any_common_spelling(layer_name):
    assert points(Site(component="residual", layer_name=layer_name)) == ["resid_post.5"]


@pytest.mark.parametrize(
    ("layer_name", "component", "point"),
    [
        ("model.layers.5.self_attn", "attention", "attn_out.5"),
        ("transformer.h.5.attn", "attention_pattern", "attention_pattern.5"),
        ("model.layers.5.mlp", "mlp", "mlp_out.5"),
        ("model.layers.5.block_sparse_moe", "router_logits", "router_logits.5"),
    ],
)
def test_a_module_may_follow_its_layer(layer_name, component, point):
    assert points(Site(component=component, layer_name=layer_name)) == [point]


@pytest.mark.parametrize("component", ["mlp", "residual", "layernorm"])
def test_a_module_of_something_else_may_not(component):
    with pytest.raises(UnknownSiteError, match=r"the layer is 'model\.layers\.5'") as caught:
        points(Site(component=component, layer_name="model.layers.5.self_attn"))
    assert (caught.value.field, caught.value.valid) == ("site.layer_name", ("model.layers.5",))


@pytest.mark.parametrize(
    ("layer_name", "component"),
    [("transformer.wte", "embedding"), ("model.embed_tokens", "embedding"), ("model.norm", "final_norm"),
     ("lm_head", "logits")],
)  # fmt: skip
def test_modules_that_belong_to_no_layer(layer_name, component):
    assert points(Site(component=component, layer_name=layer_name)) == [component]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.5.hook_resid_pre", "resid_pre.5"),
        ("blocks.5.hook_resid_post", "resid_post.5"),
        ("blocks.5.hook_attn_out", "attn_contrib.5"),
        ("blocks.5.hook_mlp_out", "mlp_contrib.5"),
        ("blocks.5.attn.hook_pattern", "attention_pattern.5"),
        ("blocks.5.attn.hook_attn_scores", "attention_scores.5"),
        ("blocks.5.attn.hook_q", "q_proj.5"),
        ("blocks.5.attn.hook_rot_q", "query.5"),
        ("blocks.5.attn.hook_z", "head_output.5"),
        ("blocks.5.mlp.hook_post", "mlp_neurons.5"),
        ("blocks.-1.hook_resid_post", "resid_post.11"),
        ("hook_embed", "embedding"),
    ],
)
def test_names_of_transformer_lens(name, expected):
    assert points(name) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resid_post.5", ["resid_post.5"]),
        ("resid_post.-2", ["resid_post.10"]),
        ("attention.3.input", ["attn_out.3.input"]),
        ("mlp_out.input", [f"mlp_out.{layer}.input" for layer in range(12)]),
        ("logits", ["logits"]),
    ],
)
def test_sites_from_one_string(text, expected):
    assert points(text) == expected


@pytest.mark.parametrize(("layer", "expected"), [(0, 0), (11, 11), (-1, 11), (-12, 0)])
def test_negative_layers_count_from_the_end(layer, expected):
    assert points(Site(component="resid_post", layer=layer)) == [f"resid_post.{expected}"]


@pytest.mark.parametrize("layer", [12, -13, 99])
def test_layers_out_of_range_say_which_there_are(layer):
    with pytest.raises(
        UnknownSiteError, match=f"layer {layer} is out of range: the model has layers 0 to 11"
    ) as caught:
        points(Site(component="resid_post", layer=layer))
    assert caught.value.field == "site.layer"
    assert "blocks.11" in caught.value.valid


def test_a_layer_name_out_of_range_blames_the_name():
    with pytest.raises(UnknownSiteError) as caught:
        points(Site(component="residual", layer_name="transformer.h.40"))
    assert caught.value.field == "site.layer_name"


@pytest.mark.parametrize(
    ("component", "nearest"),
    [("resid_pst", "resid_post"), ("atention", "attention"), ("RESID_POST", "resid_post"),
     ("mlp_neuron", "mlp_neurons"),     ("blocks.3.attn.hook_patern", "blocks.3.attn.hook_pattern")],
)  # fmt: skip
def test_unknown_components_list_the_nearest(component, nearest):
    with pytest.raises(UnknownSiteError, match="unknown component") as caught:
        points(Site(component=component, layer=0))
    assert nearest in caught.value.valid
    assert nearest in str(caught.value)
    assert caught.value.field == "site.component"


def test_a_missing_component_is_named():
    with pytest.raises(UnknownSiteError, match="the component is missing"):
        points(Site(layer=1))


def test_unknown_layer_names_list_the_nearest():
    with pytest.raises(UnknownSiteError, match="unknown layer name") as caught:
        points(Site(component="residual", layer_name="transfomer.h.5"))
    assert any("transformer.h" in name for name in caught.value.valid)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(component="resid_post", layer=3, layer_name="blocks.4"), "more than one layer"),
        (Site(component="blocks.5.hook_resid_post", layer=4), "more than one layer"),
        (Site(component="embedding", layer=0), "belongs to no layer"),
        (Site(component="resid_post", layer_name="transformer.wte"), "names none|is the place of embedding"),
        (Site(component="logits", layer_name="transformer.wte"), "is the place of embedding"),
        (Site(component="resid_post", layer=1, side=SIDE_INPUT), "no input side"),
    ],
)
def test_contradictions_are_errors(site, message):
    with pytest.raises(UnknownSiteError, match=message):
        points(site)


def test_agreeing_names_are_no_contradiction():
    assert points(Site(component="blocks.5.hook_resid_post", layer=5, layer_name="model.layers.5")) == ["resid_post.5"]


def test_without_a_model_layers_are_not_checked():
    assert points(Site(component="resid_post", layer=500), None) == ["resid_post.500"]
    assert points("resid_post", None) == ["resid_post"]


def test_the_field_of_the_request_is_part_of_the_error():
    with pytest.raises(UnknownSiteError) as caught:
        resolve(Site(component="nope"), 12, field="hooks[1].site")
    assert caught.value.field == "hooks[1].site.component"
