"""Where the points of one model are: finds its parts by name, hooks them, and keeps why a point is missing.

Knows modules and names. Whether what a hook sees is what the name promises is for `selftest` to prove.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope.sites import COMPONENTS, Point
from neuroscope_inference.engine.attention import AttentionPoints, dispatch_everywhere
from neuroscope_inference.engine.family import FAMILIES, GENERIC, Family
from neuroscope_inference.engine.tap import PointIndex, Switch, Tap, Transform, Watch, install

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
    fused_projection: nn.Module | None
    output_projection: nn.Module | None
    down_projection: nn.Module | None
    router: nn.Module | None
    experts: nn.Module | None


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Attention's shape, from the configuration."""

    heads: int
    kv_heads: int
    width: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> HeadShape:
        """Zeros where the configuration names none."""
        heads = first_int(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
        kv_heads = first_int(config, "num_key_value_heads", "n_kv_heads", "num_kv_heads") or heads
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
        self.switch = Switch()
        self.family = FAMILIES.get(str(config.get("model_type")), GENERIC)
        self.head_shape = HeadShape.of(config)
        layers: list[nn.Module] = list(getattr(model, "layers", []))
        trunk = _owner_of(model, layers)
        self.embedding = _part(trunk, self.family.embedding)
        self.final_norm = _part(trunk, self.family.final_norm)
        self.blocks = [_block(layer, self.family) for layer in layers]
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

    def wanted(self, points: Iterable[PointIndex]) -> list[bool]:
        """A tap's list for these points."""
        wanted = [False] * len(self.states)
        for point in points:
            wanted[point] = True
        return wanted

    def hook(self) -> None:
        """Installs every hook. What they see reaches the tap that is in `switch`."""
        dispatch_everywhere()
        paths = self._paths
        watches: dict[int, Watch] = {}
        around: dict[int, Callable[[Tap], AbstractContextManager[None]]] = {}

        def watch(module: nn.Module | None, *points: tuple[Point, Transform | None], reads: Any = ()) -> None:
            if module is None:
                return
            entry = watches.setdefault(id(module), Watch(module))
            for point, transform in points:
                entry.outputs.append((self._found(point, paths.get(id(module), "")), transform))
            for argument, point in reads:
                entry.inputs.append((argument, self._found(point, paths.get(id(module), ""))))

        watch(self.embedding, (Point("embedding"), None))
        watch(self.final_norm, (Point("final_norm"), None))
        watch(self.model, (Point("logits"), None))
        for layer, block in enumerate(self.blocks):
            self._watch_block(layer, block, watch)
            around[id(block.module)] = _stopping_before(layer)
            if block.attention is not None:
                around[id(block.attention)] = self._attention_points(layer, paths[id(block.attention)]).reading
        for key, entry in watches.items():
            install(entry, self.switch, around.get(key))

    def _watch_block(self, layer: int, block: Block, watch: Callable[..., None]) -> None:
        def at(component: str, *, is_input: bool = False) -> Point:
            return Point(component, layer, is_input)

        watch(block.module, (at("resid_post"), None), reads=[(0, at("resid_pre"))])
        watch(block.norm1, (at("ln1"), None))
        watch(block.norm2, (at("ln2"), None))
        watch(block.norm2 or block.mlp, reads=[(0, at("resid_mid"))])
        watch(block.attention, (at("attn_out"), None), reads=[(0, at("attn_out", is_input=True))])
        watch(block.attention_output_norm or block.attention, (at("attn_contrib"), None))
        watch(block.mlp, (at("mlp_out"), None), reads=[(0, at("mlp_out", is_input=True))])
        watch(block.mlp_output_norm or block.mlp, (at("mlp_contrib"), None))
        shape = self.head_shape
        if shape.heads:
            watch(block.query_projection, (at("q_proj"), _as_heads(shape.heads, 0)))
            watch(block.key_projection, (at("k_proj"), _as_heads(shape.kv_heads, 0)))
            watch(
                block.fused_projection,
                (at("q_proj"), _as_heads(shape.heads, 0, shape.width)),
                (at("k_proj"), _as_heads(shape.kv_heads, shape.heads, shape.width)),
            )
        watch(block.down_projection, reads=[(0, at("mlp_neurons"))])
        watch(block.router, (at("router_logits"), None))
        watch(block.experts, reads=[(1, at("expert_indices"))])

    def _attention_points(self, layer: int, path: str) -> AttentionPoints:
        names = ("query", "key", "value", "attention_scores", "attention_pattern", "head_output")
        return AttentionPoints(layer, *(self._found(Point(name, layer), path) for name in names))

    def _declare(self, point: Point) -> None:
        self.index[point] = len(self.states)
        self.states.append(PointState(point, _missing(point, self.blocks)))

    def _found(self, point: Point, path: str) -> PointIndex:
        state = self.state(point)
        state.reason, state.module_path = _NOT_SEEN, path
        return self.index[point]


def _missing(point: Point, blocks: list[Block]) -> str:
    if point.component in ("router_logits", "expert_indices", "expert_weights"):
        block = blocks[point.layer or 0]
        if block.router is None and block.experts is None:
            return _DENSE
        return "this architecture's router is not read"
    if point.component == "mlp_neurons" and blocks[point.layer or 0].experts is not None:
        return "the layer is a mixture of experts: its neurons belong to experts"
    return "the architecture has no part of that kind under a name that is known"


def _block(layer: nn.Module, family: Family) -> Block:
    if family.is_generic and "post_feedforward_layernorm" in layer:
        family = replace(
            family,
            norm2=("pre_feedforward_layernorm",),
            attention_output_norm=("post_attention_layernorm",),
            mlp_output_norm=("post_feedforward_layernorm",),
        )
    attention, mlp = _part(layer, family.attention), _part(layer, family.mlp)
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
        fused_projection=_part(attention, family.fused_projection),
        output_projection=_part(attention, family.output_projection),
        down_projection=_part(mlp, family.down_projection),
        router=_part(mlp, family.router),
        experts=_part(mlp, family.experts),
    )


def _part(parent: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    if parent is None:
        return None
    for name in names:
        child = parent.get(name)
        if isinstance(child, nn.Module):
            return child
    return None


def _owner_of(model: nn.Module, layers: list[nn.Module]) -> nn.Module:
    """The module that holds the list of layers, beside embedding and final norm."""
    for _, module in model.named_modules():
        for value in module.values():
            if isinstance(value, list) and layers and value and value[0] is layers[0]:
                return module
    return model


def _as_heads(heads: int, first_head: int, width: int = 0) -> Transform:
    """(B, L, all) -> (B, L, heads, d_head), from a projection's columns or from their part in a fused one."""

    def transform(x: mx.array) -> mx.array:
        part = x[..., first_head * width : (first_head + heads) * width] if width else x
        return part.reshape(*x.shape[:2], heads, -1)

    return transform


def _stopping_before(layer: int) -> Callable[[Tap], AbstractContextManager[None]]:
    @contextmanager
    def around(tap: Tap) -> Generator[None, None, None]:
        if tap.stop_before == layer:
            raise ForwardStopped
        yield

    return around
