"""Where the points of one model are: finds its parts by name, hooks them, and keeps why a point is missing.

Knows modules and names. Whether what a hook sees is what the name promises is for `selftest` to prove.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine import manual_attention
from neuroscope_inference.engine.attention import AttentionPoints, patch_attention_functions
from neuroscope_inference.engine.hook_plan import ActiveHookPlan, HookPlan, ModulePoints, PointIndex, PointView, install
from neuroscope_inference.engine.module_names import GENERIC, MODULE_NAMES, ModuleNames
from neuroscope_inference.engine.qkv_layout import QkvLayout
from neuroscope_inference.engine.routing import Routing

_NOT_SEEN = "the model's code never passes through this point"
_DENSE = "the layer is not a mixture of experts"


class ForwardStopped(Exception):
    """The forward pass reached the layer before which it was to stop."""


@dataclass(slots=True)
class PointState:
    """One point of the vocabulary in this model."""

    point: Point
    reason: str  # why it cannot be captured; empty if it can
    module_path: str = ""
    axes_extents: tuple[int, ...] = ()  # of one position, filled by the self-test
    dtype: mx.Dtype = mx.float32
    is_writable: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """The parts of one layer; None where the model has no such part."""

    module: nn.Module
    attention: nn.Module | None
    mlp: nn.Module | None
    norm1: nn.Module | None
    norm2: nn.Module | None
    attention_output_norm: nn.Module | None
    mlp_output_norm: nn.Module | None
    query_projection: nn.Module | None
    key_projection: nn.Module | None
    value_projection: nn.Module | None
    fused_projection: nn.Module | None
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    output_projection: nn.Module | None
    up_projection: nn.Module | None
    gate_projection: nn.Module | None
    fused_up_projection: nn.Module | None
    down_projection: nn.Module | None
    router: nn.Module | None
    experts: nn.Module | None
    routing: Routing | None
    contribution_scale: float  # what attention and MLP are multiplied with before they are added to the stream


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Attention's shape, from the configuration."""

    heads: int
    kv_heads: int
    width: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HeadShape:
        """Zeros where the configuration names none."""
        heads = first_int(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
        shared = 1 if config.get("multi_query") else heads  # gpt_bigcode's way to say it
        kv_heads = first_int(config, "num_key_value_heads", "n_kv_heads", "num_kv_heads") or shared
        d_model = first_int(config, "hidden_size", "n_embd", "d_model", "dim")
        return cls(heads, kv_heads, first_int(config, "head_dim") or (d_model // heads if heads else 0))


def first_int(config: Mapping[str, Any], *names: str) -> int:
    """The first of the named entries that is a positive integer; 0 if none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


class Layout:
    """The hooked points of a model.

    Args:
        model: an mlx-lm model, weights loaded or not.
        config: its configuration (the text model's, where they are nested).
    """

    def __init__(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        self.model = model
        self.active_hooks = ActiveHookPlan()
        self.module_names = MODULE_NAMES.get(str(config.get("model_type")), GENERIC)
        self.head_shape = HeadShape.from_config(config)
        layers: list[nn.Module] = list(getattr(model, "layers", []))
        trunk = _enclosing_modules(model, layers)
        self.embedding = _first_part(trunk, self.module_names.embedding)
        self.positions = _first_part(trunk, self.module_names.positions)
        self.final_norm = _first_part(trunk, self.module_names.final_norm)
        self.head = _first_part(trunk, self.module_names.head)
        self.blocks = [_block(layer, self.module_names) for layer in layers]
        self.columns = [QkvLayout(*astuple(self.head_shape)) for _ in layers]
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.states: list[PointState] = []
        self.index: dict[Point, PointIndex] = {}
        for component in COMPONENTS.values():
            for layer in range(len(layers)) if component.has_layer else (None,):
                self._declare(Point(component.name, layer))
                if component.has_input:
                    self._declare(Point(component.name, layer, is_input=True))

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.blocks)

    def state(self, point: Point) -> PointState:
        """What is known of a point."""
        return self.states[self.index[point]]

    def layer_name(self, point: Point) -> str:
        """The model's own path of the point's layer, or of its module where it belongs to no layer."""
        if point.layer is None:
            return self.state(point).module_path
        return self._paths[id(self.blocks[point.layer].module)]

    def path_of(self, module: nn.Module) -> str:
        """A module's path in the model; empty where it is no part of it."""
        return self._paths.get(id(module), "")

    def capture_mask(self, points: Iterable[PointIndex]) -> list[bool]:
        """A hook plan's list for these points."""
        wanted = [False] * len(self.states)
        for point in points:
            wanted[point] = True
        return wanted

    def install_hooks(self) -> None:
        """Installs every hook. What they see reaches the hook plan that is in `switch`."""
        patch_attention_functions()
        paths = self._paths
        watches: dict[int, ModulePoints] = {}
        around: dict[int, Callable[[HookPlan], AbstractContextManager[None]]] = {}

        def watch(
            module: nn.Module | None,
            *points: tuple[Point, PointView | None],
            reads: Sequence[tuple[int, Point]] = (),
            carried_by: int | None = None,
            block: int | None = None,
        ) -> None:
            if module is None:
                return
            entry = watches.setdefault(id(module), ModulePoints(module))
            entry.block = block if entry.block is None else entry.block
            for point, view in points:
                entry.outputs.append((self._mark_found(point, paths.get(id(module), "")), view))
                self.state(point).is_writable = view is None or view.write is not None
            for argument, point in reads:
                entry.inputs.append((argument, self._mark_found(point, paths.get(id(module), "")), carried_by))

        watch(self.embedding, (Point("embedding"), None))
        watch(self.final_norm, (Point("final_norm"), None))
        watch(self.model, (Point("logits"), None))
        for layer, block in enumerate(self.blocks):
            manual_attention.install(block.attention)
            self._install_routing(layer, block, paths)
            self._add_block_points(layer, block, watch)
            around[id(block.module)] = _stop_before(layer)
            if block.attention is not None:
                around[id(block.attention)] = self._attention_points(layer, paths[id(block.attention)]).activate
        if self.final_norm is not None:
            watches[id(self.final_norm)].is_final_norm = True
        if (mlp := self.blocks[-1].mlp) is not None:
            watches[id(mlp)].is_last_mlp = True
        for key, entry in watches.items():
            install(entry, self.active_hooks, around.get(key))

    def _add_block_points(self, layer: int, block: Block, watch: Callable[..., None]) -> None:
        def at(component: str, *, is_input: bool = False) -> Point:
            return Point(component, layer, is_input)

        watch(block.module, (at("resid_post"), None), reads=[(0, at("resid_pre"))], block=layer)
        watch(block.norm1, (at("ln1"), None))
        watch(block.norm2, (at("ln2"), None))
        watch(block.norm2 or block.mlp, reads=[(0, at("resid_mid"))], carried_by=layer)
        watch(block.attention, (at("attn_out"), None), reads=[(0, at("attn_out", is_input=True))])
        scaled = _scaled(block.contribution_scale)
        watch(block.attention_output_norm or block.attention, (at("attn_contrib"), scaled))
        watch(block.mlp, (at("mlp_out"), None), reads=[(0, at("mlp_out", is_input=True))])
        watch(block.mlp_output_norm or block.mlp, (at("mlp_contrib"), scaled))
        shape = self.head_shape
        if shape.heads:
            columns = self.columns[layer]
            watch(block.query_projection, (at("q_proj"), _as_heads(shape.heads)))
            watch(block.key_projection, (at("k_proj"), _as_heads(shape.kv_heads)))
            watch(block.fused_projection, (at("q_proj"), columns.queries), (at("k_proj"), columns.keys))
        watch(block.down_projection, reads=[(0, at("mlp_neurons"))])
        watch(block.router, (at("router_logits"), None))
        watch(block.experts, reads=[(1, at("expert_indices"))])

    def _install_routing(self, layer: int, block: Block, paths: Mapping[int, str]) -> None:
        routing = block.routing
        if routing is not None:
            path = paths.get(id(routing.gating), "")
            logits, weights = Point("router_logits", layer), Point("expert_weights", layer)
            routing.install(self.active_hooks, self._mark_found(logits, path), self._mark_found(weights, path))
            self.state(weights).is_writable = False  # computed beside the model, which does not pass them on
            self.state(logits).is_writable = routing.linear is not None

    def _attention_points(self, layer: int, path: str) -> AttentionPoints:
        names = ("query", "key", "value", "attention_scores", "attention_pattern", "head_output")
        return AttentionPoints(layer, *(self._mark_found(Point(name, layer), path) for name in names))

    def _declare(self, point: Point) -> None:
        self.index[point] = len(self.states)
        self.states.append(PointState(point, _missing_reason(point, self.blocks)))

    def _mark_found(self, point: Point, path: str) -> PointIndex:
        state = self.state(point)
        state.reason, state.module_path = _NOT_SEEN, path
        return self.index[point]


def _missing_reason(point: Point, blocks: list[Block]) -> str:
    if point.component in ("router_logits", "expert_indices", "expert_weights"):
        block = blocks[point.layer or 0]
        if block.experts is None:
            return _DENSE
        return "this architecture's router is not read"
    if point.component == "mlp_neurons" and blocks[point.layer or 0].experts is not None:
        return "the layer is a mixture of experts: its neurons belong to experts"
    return "the architecture has no part of that kind under a name that is known"


def _block(layer: nn.Module, family: ModuleNames) -> Block:
    if family.is_generic:
        family = _with_output_norms(family, layer)
    attention, mlp = _part(layer, family.attention), _part(layer, family.mlp)
    if attention is not None and mlp is None and _is_mlp(attention):  # nemotron_h calls either the mixer
        attention, mlp = None, attention
    gating, experts = _part(mlp, family.router), _part(mlp, family.experts)
    routing = None
    if mlp is not None and gating is not None and experts is not None:
        shared = (_part(mlp, family.shared_expert), _part(mlp, family.shared_expert_gate))
        routing = Routing(gating, experts, shared, mlp)
    return Block(
        module=layer,
        attention=attention,
        mlp=mlp,
        norm1=_part(layer, family.norm1),
        norm2=_part(layer, family.norm2),
        attention_output_norm=_part(layer, family.attention_output_norm),
        mlp_output_norm=_part(layer, family.mlp_output_norm),
        query_projection=_part(attention, family.query_projection),
        key_projection=_part(attention, family.key_projection),
        value_projection=_part(attention, family.value_projection),
        fused_projection=_part(attention, family.fused_projection),
        query_norm=_part(attention, family.query_norm),
        key_norm=_part(attention, family.key_norm),
        output_projection=_part(attention, family.output_projection),
        up_projection=_part(mlp, family.up_projection),
        gate_projection=_part(mlp, family.gate_projection),
        fused_up_projection=_part(mlp, family.fused_up_projection),
        down_projection=_part(mlp, family.down_projection),
        router=routing.linear if routing is not None else None,
        experts=experts,
        routing=routing,
        contribution_scale=_contribution_scale(layer),
    )


def _with_output_norms(family: ModuleNames, layer: nn.Module) -> ModuleNames:
    """The generic family where norms stand behind attention and MLP: `post_attention_layernorm` is then one of them."""
    if "post_feedforward_layernorm" in layer:
        before, after = ("pre_feedforward_layernorm",), ("post_feedforward_layernorm",)
    elif "pre_mlp_layernorm" in layer:
        before, after = ("pre_mlp_layernorm",), ("post_mlp_layernorm",)
    else:
        return family
    return replace(family, norm2=before, attention_output_norm=("post_attention_layernorm",), mlp_output_norm=after)


def _is_mlp(mixer: nn.Module) -> bool:
    return any(name in mixer for name in ("down_proj", "switch_mlp")) and not any(
        name in mixer for name in ("o_proj", "out_proj", "in_proj")
    )


def _contribution_scale(layer: nn.Module) -> float:
    """Of granite and minicpm, which scale what they add to the stream."""
    if isinstance(scale := getattr(layer, "residual_multiplier", None), (int, float)):
        return float(scale)
    depth, layers = getattr(layer, "scale_depth", None), getattr(layer, "num_hidden_layers", None)
    if isinstance(depth, (int, float)) and isinstance(layers, int):
        return float(depth / layers**0.5)
    return 1.0


def _part(parent: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        child: Any = parent
        for step in name.split("."):
            child = child.get(step) if isinstance(child, nn.Module) else None
        if isinstance(child, nn.Module):
            return child
    return None


def _enclosing_modules(model: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
    """The module that holds the list of layers, then those around it: embedding and last norm are in one of them."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        for value in module.values():
            if isinstance(value, list) and layers and value and value[0] is layers[0]:
                steps = path.split(".")
                return [modules[".".join(steps[:depth])] for depth in range(len(steps), 0, -1)] + [model]
    return [model]


def _first_part(parents: list[nn.Module], names: tuple[str, ...]) -> nn.Module | None:
    return next((part for parent in parents if (part := _part(parent, names)) is not None), None)


def _as_heads(heads: int) -> PointView:
    """(B, L, all) as (B, L, heads, d_head); what does not divide stays, for the self-test to refuse."""

    def read(x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], heads, -1) if x.ndim == 3 and x.shape[-1] % heads == 0 else x

    return PointView(read, lambda x, edited: edited.reshape(x.shape))


def _scaled(scale: float) -> PointView | None:
    return None if scale == 1 else PointView(lambda x: x * scale, lambda _, edited: edited / scale)


def _stop_before(layer: int) -> Callable[[HookPlan], AbstractContextManager[None]]:
    @contextmanager
    def around(hook_plan: HookPlan) -> Generator[None, None, None]:
        if hook_plan.stop_before == layer:
            raise ForwardStopped
        yield

    return around
