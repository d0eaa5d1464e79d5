"""The vocabulary of sites: components, their tensors' axes, and every spelling that resolves to them.

    Point("resid_post", 5)                       canonical
    resolve(Site(component="residual", layer_name="transformer.h.5"), num_layers=12)
    resolve(Site(component="blocks.5.attn.hook_pattern"), num_layers=12)
    resolve(Site(component="resid_post"), num_layers=12)         every layer

It knows names and shapes. Whether a model has a point is for the inference service to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neuroscope.errors import UnknownSiteError, nearest
from neuroscope.v1 import site_pb2, tensor_pb2

_A = tensor_pb2.Axis
_STREAM = (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_D_MODEL)
_HEADS = (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_HEAD, _A.AXIS_D_HEAD)
_ATTENTION = (_A.AXIS_BATCH, _A.AXIS_HEAD, _A.AXIS_POSITION, _A.AXIS_KEY_POSITION)


@dataclass(frozen=True, slots=True)
class Component:
    """One name of the vocabulary."""

    name: str
    meaning: str
    axes: tuple[tensor_pb2.Axis.ValueType, ...] = _STREAM
    has_layer: bool = True
    has_input: bool = False  # whether what the module reads is a point of its own


COMPONENTS: dict[str, Component] = {
    component.name: component
    for component in (
        Component("embedding", "output of the token embedding module", has_layer=False),
        Component("resid_pre", "residual stream before the block"),
        Component("resid_mid", "residual stream between attention and MLP"),
        Component("resid_post", "residual stream after the block"),
        Component("ln1", "output of the norm before attention"),
        Component("ln2", "output of the norm before the MLP"),
        Component("final_norm", "output of the last norm, which the output head reads", has_layer=False),
        Component("attn_out", "output of the attention module, after its output projection", has_input=True),
        Component("mlp_out", "output of the MLP module", has_input=True),
        Component("attn_contrib", "what attention adds to the residual stream (after a sandwich norm, if any)"),
        Component("mlp_contrib", "what the MLP adds to the residual stream (after a sandwich norm, if any)"),
        Component("q_proj", "query projection, before any norm and rotary embedding", _HEADS),
        Component("k_proj", "key projection, before any norm and rotary embedding", _HEADS),
        Component("query", "queries as attended with, after norms and rotary embedding", _HEADS),
        Component("key", "keys as attended to, after norms and rotary embedding; the step's own positions", _HEADS),
        Component("value", "values; the step's own positions", _HEADS),
        Component("attention_scores", "scaled and masked scores before the softmax", _ATTENTION),
        Component("attention_pattern", "attention probabilities", _ATTENTION),
        Component("head_output", "output of each head before the output projection (z)", _HEADS),
        Component(
            "mlp_neurons",
            "hidden neurons of the MLP: what its down projection reads",
            (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_D_MLP),
        ),
        Component(
            "router_logits",
            "scores of the experts before selection",
            (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_EXPERT),
        ),
        Component(
            "expert_indices",
            "experts chosen for each token",
            (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_CHOICE),
        ),
        Component(
            "expert_weights",
            "weights of the chosen experts",
            (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_CHOICE),
        ),
        Component(
            "logits",
            "output of the model, softcap and scale included",
            (_A.AXIS_BATCH, _A.AXIS_POSITION, _A.AXIS_VOCABULARY),
            has_layer=False,
        ),
    )
}

# The ten names of the NeuroScope REST format: (what the output is, what the input is; empty: it has none).
REST_NAMES: dict[str, tuple[tuple[str, bool], tuple[str, bool] | None]] = {
    "residual": (("resid_post", False), ("resid_pre", False)),
    "attention": (("attn_out", False), ("attn_out", True)),
    "mlp": (("mlp_out", False), ("mlp_out", True)),
    "embedding": (("embedding", False), None),
    "layernorm": (("ln1", False), ("resid_pre", False)),
    "attention_scores": (("attention_scores", False), None),
    "attention_pattern": (("attention_pattern", False), ("attention_scores", False)),
    "key": (("key", False), ("k_proj", False)),
    "query": (("query", False), ("q_proj", False)),
    "value": (("value", False), None),
}

# TransformerLens hook names inside `blocks.N.`, where the definition is the same.
_LENS_BLOCK_NAMES = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_contrib",
    "hook_mlp_out": "mlp_contrib",
    "attn.hook_q": "q_proj",
    "attn.hook_k": "k_proj",
    "attn.hook_v": "value",
    "attn.hook_rot_q": "query",
    "attn.hook_rot_k": "key",
    "attn.hook_attn_scores": "attention_scores",
    "attn.hook_pattern": "attention_pattern",
    "attn.hook_z": "head_output",
    "mlp.hook_post": "mlp_neurons",
}
_LENS_NAMES = {"hook_embed": "embedding"}
_LENS_BLOCK = re.compile(r"blocks\.(-?[0-9]{1,9})\.(.+)")  # nine digits fit the int32 of Site.layer
_LAYER = re.compile(
    r"(?:transformer\.h|model\.layers|model\.h|blocks|layers|gpt_neox\.layers|language_model\.model\.layers|h)"
    r"\.(-?[0-9]{1,9})(?:\.(\w+))?"
)
# Modules within a layer, for names such as model.layers.5.self_attn: the components that have their place there.
_ATTENTION_PARTS = frozenset(
    "attn_out attn_contrib q_proj k_proj query key value attention_scores attention_pattern head_output".split()
)
_MLP_PARTS = frozenset("mlp_out mlp_contrib mlp_neurons router_logits expert_indices expert_weights".split())
_MODULES = {
    **dict.fromkeys(("self_attn", "attn", "attention", "self_attention"), _ATTENTION_PARTS),
    **dict.fromkeys(("mlp", "feed_forward", "block_sparse_moe"), _MLP_PARTS),
}
_LAYERLESS = {
    "embedding": ("transformer.wte", "model.embed_tokens", "model.wte", "wte", "embed_tokens", "model.embed_in"),
    "final_norm": ("transformer.ln_f", "model.norm", "model.ln_f", "ln_f", "norm", "model.final_layer_norm"),
    "logits": ("lm_head", "model.embed_out", "unembed"),
}
_LAYERLESS_OF = {name: component for component, names in _LAYERLESS.items() for name in names}


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A resolved site: canonical component, layer from 0 (None at sites of no layer), side."""

    component: str
    layer: int | None = None
    is_input: bool = False

    def to_message(self) -> site_pb2.Site:
        """The resolved site as the contract carries it."""
        side = site_pb2.SIDE_INPUT if self.is_input else site_pb2.SIDE_OUTPUT
        return site_pb2.Site(component=self.component, layer=self.layer, side=side)

    @classmethod
    def from_message(cls, site: site_pb2.Site) -> Point:
        """The point of a site that the server has resolved."""
        layer = site.layer if site.HasField("layer") else None
        return cls(site.component, layer, site.side == site_pb2.SIDE_INPUT)

    def __str__(self) -> str:
        name = self.component if self.layer is None else f"{self.component}.{self.layer}"
        return f"{name}.input" if self.is_input else name


def resolve(site: site_pb2.Site, num_layers: int | None, *, field: str = "site") -> list[Point]:
    """The points that a site names: one, or one per layer if it names no layer.

    Args:
        site: component, layer or layer name, and side, in any spelling.
        num_layers: layers of the model; None while no model is known, which leaves layer ranges unchecked and gives a
            site of every layer as one point with layer None.
        field: path of the site in the request, for errors.

    Raises:
        UnknownSiteError: a name resolves to nothing, or the layer is out of range.
    """
    name, named_layer = _split_component(site.component, field)
    layer = _layer_of(site, named_layer, field)
    component, is_input = _component_of(name, site, field)
    if not COMPONENTS[component].has_layer:
        if layer is not None:
            raise UnknownSiteError(f"{component} belongs to no layer", field=f"{field}.layer")
        return [Point(component, None, is_input)]
    if layer is None and site.layer_name:
        raise UnknownSiteError(
            f"{component} belongs to a layer, but {site.layer_name!r} names none",
            field=f"{field}.layer_name",
            valid=_layer_examples(num_layers),
        )
    if num_layers is None:
        return [Point(component, layer, is_input)]
    if layer is None:
        return [Point(component, index, is_input) for index in range(num_layers)]
    if not -num_layers <= layer < num_layers:
        raise UnknownSiteError(
            f"layer {layer} is out of range: the model has layers 0 to {num_layers - 1}",
            field=f"{field}.layer_name" if site.layer_name else f"{field}.layer",
            valid=_layer_examples(num_layers),
        )
    return [Point(component, layer % num_layers, is_input)]


def parse(name: str) -> site_pb2.Site:
    """A site from one string: `resid_post`, `resid_post.5`, `attention.3.input` or a TransformerLens name."""
    if name in COMPONENTS or name in REST_NAMES or name in _LENS_NAMES or _LENS_BLOCK.fullmatch(name):
        return site_pb2.Site(component=name)
    match = re.fullmatch(r"(\w+)(?:\.(-?\d+))?(\.input)?", name)
    if match is None:
        return site_pb2.Site(component=name)  # resolve() says what is wrong with it
    component, layer, is_input = match.groups()
    side = site_pb2.SIDE_INPUT if is_input else site_pb2.SIDE_UNSPECIFIED
    return site_pb2.Site(component=component, layer=None if layer is None else int(layer), side=side)


def _split_component(component: str, field: str) -> tuple[str, int | None]:
    if match := _LENS_BLOCK.fullmatch(component):
        layer, name = match.groups()
        if name not in _LENS_BLOCK_NAMES:
            candidates = [f"blocks.{layer}.{known}" for known in _LENS_BLOCK_NAMES]
            raise _unknown_component(component, candidates, field)
        return _LENS_BLOCK_NAMES[name], int(layer)
    if component in _LENS_NAMES:
        return _LENS_NAMES[component], None
    if component not in COMPONENTS and component not in REST_NAMES:
        raise _unknown_component(component, [*COMPONENTS, *(n for n in REST_NAMES if n not in COMPONENTS)], field)
    return component, None


def _unknown_component(component: str, candidates: list[str], field: str) -> UnknownSiteError:
    valid = nearest(component, candidates)
    what = f"unknown component {component!r}" if component else "the component is missing"
    return UnknownSiteError(f"{what}; nearest: {', '.join(valid)}", field=f"{field}.component", valid=valid)


def _layer_of(site: site_pb2.Site, named_layer: int | None, field: str) -> int | None:
    found = {site.layer} if site.HasField("layer") else set[int]()
    if named_layer is not None:
        found.add(named_layer)
    if site.layer_name:
        match = _LAYER.fullmatch(site.layer_name)
        if match is not None and (match[2] is None or match[2] in _MODULES):
            found.add(int(match[1]))
        elif site.layer_name not in _LAYERLESS_OF:
            valid = nearest(site.layer_name, [*_layer_examples(None), *_LAYERLESS_OF])
            raise UnknownSiteError(
                f"unknown layer name {site.layer_name!r}; nearest: {', '.join(valid)}",
                field=f"{field}.layer_name",
                valid=valid,
            )
    if len(found) > 1:
        raise UnknownSiteError(f"the site names more than one layer: {sorted(found)}", field=f"{field}.layer")
    return found.pop() if found else None


def _component_of(name: str, site: site_pb2.Site, field: str) -> tuple[str, bool]:
    if site.side not in site_pb2.Side.values():
        raise UnknownSiteError(
            f"the contract has no side {site.side}", field=f"{field}.side", valid=site_pb2.Side.keys()[1:]
        )
    wants_input = site.side == site_pb2.SIDE_INPUT
    if name in REST_NAMES:
        output, read = REST_NAMES[name]
        if wants_input and read is None:
            raise UnknownSiteError(f"{name} has no input that is an activation", field=f"{field}.side")
        component, is_input = (read or output) if wants_input else output
    else:
        if wants_input and not COMPONENTS[name].has_input:
            valid = [c.name for c in COMPONENTS.values() if c.has_input]
            raise UnknownSiteError(
                f"{name} has no input side; components that have one: {', '.join(valid)}",
                field=f"{field}.side",
                valid=valid,
            )
        component, is_input = name, wants_input
    owner = _LAYERLESS_OF.get(site.layer_name)
    if owner is not None and owner != component:
        raise UnknownSiteError(
            f"{site.layer_name!r} is the place of {owner}, not of {name}",
            field=f"{field}.layer_name",
            valid=_LAYERLESS.get(component, ()),
        )
    match = _LAYER.fullmatch(site.layer_name)
    if match is not None and match[2] is not None and component not in _MODULES[match[2]]:
        layer_name = site.layer_name.removesuffix(f".{match[2]}")
        raise UnknownSiteError(
            f"{site.layer_name!r} has no {name}; the layer is {layer_name!r}",
            field=f"{field}.layer_name",
            valid=(layer_name,),
        )
    return component, is_input


def _layer_examples(num_layers: int | None) -> tuple[str, ...]:
    last = 0 if num_layers is None else num_layers - 1
    return tuple(f"{prefix}.{last}" for prefix in ("model.layers", "transformer.h", "blocks", "layers"))
