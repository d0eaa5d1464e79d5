"""Every weight of a model under the name that the vocabulary gives it, and why it has no others.

A matrix is offered where the self-test has proved the points around it, or the probe how it is used; nothing is copied
until it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary.sites import Point
from neuroscope.weights.names import OPTIONAL, WEIGHTS
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.head_matrices import (
    HeadProjection,
    MatricesUnavailableError,
    output_matrix,
    projections_of,
)
from neuroscope_inference.engine.hook_plan import plain_class
from neuroscope_inference.engine.layout import Block, Layout
from neuroscope_inference.engine.linear import bias_of, matrix_of, source_of
from neuroscope_inference.engine.weights.probe import NeuronProjection, WeightFacts, probe_weights

WeightKey = tuple[str, int | None]
"""A weight: its name, and its layer if it belongs to one."""
_EXPERT_PARTS = {"W_gate": "gate_proj", "W_in": "up_proj", "W_out": "down_proj"}
_EXPERT_PARTS_UNGATED = {"W_in": "fc1", "W_out": "fc2"}
_NO_PART = "the architecture has no part of that kind under a name that is known"


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of one layer.

    Args:
        name: in the vocabulary.
        layer: None: it belongs to none.
        make: makes the lazy array, in the orientation of the vocabulary.
        axes: of it.
        module: whose it is.
        source: where its numbers are from.
    """

    name: str
    layer: int | None
    make: Callable[[], mx.array]
    axes: Sequence[tensor_pb2.Axis.ValueType]
    module: nn.Module
    source: pb.WeightSource.ValueType


@dataclass(frozen=True, slots=True)
class NormWeights:
    """A norm: (x, centred or not) / sqrt(mean square + epsilon) * weight + bias.

    Args:
        weight: (width,), what it multiplies with in effect.
        bias: (width,); None: it adds nothing.
        is_centred: whether the mean is subtracted.
        epsilon: 0: not known.
        source: of weight and bias.
    """

    weight: mx.array
    bias: mx.array | None
    is_centred: bool
    epsilon: float
    source: pb.WeightSource.ValueType


@dataclass(slots=True)
class WeightCatalogue:
    """The weights of one model. It is made on the engine's thread, by a forward pass of a few tokens.

    Args:
        layout: of the model.
    """

    layout: Layout
    facts: WeightFacts = field(init=False)
    weights: dict[WeightKey, Weight] = field(default_factory=dict[WeightKey, Weight], init=False)
    norms: dict[WeightKey, NormWeights] = field(default_factory=dict[WeightKey, NormWeights], init=False)
    reasons: dict[WeightKey, str] = field(default_factory=dict[WeightKey, str], init=False)

    def __post_init__(self) -> None:
        self.facts = probe_weights(self.layout)
        self._add_model_weights()
        for layer, block in enumerate(self.layout.blocks):
            self._add_norms(layer, block)
            self._add_attention(layer, block)
            self._add_mlp(layer, block)
            self._add_experts(layer, block)

    def reason(self, name: str) -> str:
        """Why the model has a weight in no layer."""
        if name in OPTIONAL and name.replace("b_", "W_") in self:
            return "there is none"
        found = [reason for (missing, _), reason in self.reasons.items() if missing == name]
        return found[0] if found else _NO_PART

    @property
    def expert_count(self) -> int:
        """Experts of its mixtures; 0: it has none."""
        routers = [weight for (name, _), weight in self.weights.items() if name == "W_router"]
        return routers[0].make().shape[-1] if routers else 0

    def __contains__(self, name: str) -> bool:
        return any(name == found for found, _ in self.weights)

    def _add_model_weights(self) -> None:
        layout, head = self.layout, self.facts.head
        reason = _NO_PART if layout.embedding is None else self._why_unverified("embedding", None)
        if layout.embedding is None or reason:
            self.reasons["W_E", None] = reason
        else:
            self._add("W_E", None, layout.embedding, partial(matrix_of, layout.embedding))
        if layout.positions is not None and self.facts.embedding_scale:
            self._add("W_pos", None, layout.positions, partial(matrix_of, layout.positions))
        else:
            self.reasons["W_pos", None] = "positions are not embedded by a matrix that is added"
        self._add_norm("final_norm", None, layout.final_norm, self._why_unverified("final_norm", None))
        if head is None:
            self.reasons["W_U", None] = "no matrix that is known makes the logits of what the final norm gives"
            return
        self._add("W_U", None, head.module, lambda: matrix_of(head.module).T)
        if (bias := bias_of(head.module)) is not None:
            self._add("b_U", None, head.module, lambda: bias)

    def _add_norms(self, layer: int, block: Block) -> None:
        self._add_norm("ln1", layer, block.norm1, self._why_unverified("ln1", layer))
        self._add_norm("ln1_post", layer, block.attention_output_norm, self._why_unverified("attn_contrib", layer))
        self._add_norm("ln2", layer, block.norm2, self._why_unverified("ln2", layer))
        self._add_norm("ln2_post", layer, block.mlp_output_norm, self._why_unverified("mlp_contrib", layer))

    def _add_norm(self, name: str, layer: int | None, module: nn.Module | None, reason: str) -> None:
        if module is None:
            self.reasons[f"{name}.w", layer] = self.reasons[f"{name}.b", layer] = "the model has no such norm"
            return
        norm = None if reason else _probe_norm(module, self._width)
        if norm is None:
            self.reasons[f"{name}.w", layer] = self.reasons[f"{name}.b", layer] = (
                reason or "it is neither a LayerNorm nor an RMSNorm"
            )
            return
        self.norms[name, layer] = norm
        self._add(f"{name}.w", layer, module, lambda: norm.weight, source=norm.source)
        if norm.bias is not None:
            bias = norm.bias
            self._add(f"{name}.b", layer, module, lambda: bias, source=norm.source)

    def _add_attention(self, layer: int, block: Block) -> None:
        columns = self.layout.columns[layer]
        try:
            projections = projections_of(block, columns, layer)
        except MatricesUnavailableError as missing:
            projections = []
            for name in "QKV":
                self.reasons[f"W_{name}", layer] = self.reasons[f"b_{name}", layer] = str(missing)
        for name, point, projection in zip("QKV", ("q_proj", "k_proj", "value"), projections, strict=False):
            reason = self._why_unverified(point, layer) or self._why_misshapen(point, layer, projection)
            if reason:
                self.reasons[f"W_{name}", layer] = self.reasons[f"b_{name}", layer] = reason
                continue
            self._add(f"W_{name}", layer, projection.module, partial(_by_head, projection))
            if (bias := projection.bias()) is not None:
                self._add(f"b_{name}", layer, projection.module, lambda bias=bias: bias)
        self._add_output(layer, block)
        for name, heads, module in (
            ("q_norm", columns.heads, block.query_norm),
            ("k_norm", columns.kv_heads, block.key_norm),
        ):
            self._add_head_norm(name, layer, heads, module)
        sinks = None if block.attention is None else block.attention.get("sinks")
        if block.attention is not None and isinstance(sinks, mx.array) and sinks.shape == (columns.heads,):
            self._add("sinks", layer, block.attention, lambda: sinks)

    def _add_output(self, layer: int, block: Block) -> None:
        reason = self._why_unverified("head_output", layer)
        if not reason and block.output_projection is None:
            reason = _NO_PART
        if reason or block.output_projection is None:
            self.reasons["W_O", layer] = self.reasons["b_O", layer] = reason
            return
        heads = self.layout.state(Point("head_output", layer)).axes_extents[-2]
        self._add("W_O", layer, block.output_projection, partial(output_matrix, block, heads))
        if (bias := bias_of(block.output_projection)) is not None:
            self._add("b_O", layer, block.output_projection, lambda: bias)

    def _add_head_norm(self, name: str, layer: int, heads: int, module: nn.Module | None) -> None:
        """A norm of queries or keys: of each head by itself, all alike, or of all heads together."""
        weight = None if module is None else module.get("weight")
        if module is None or not isinstance(weight, mx.array):
            self.reasons[f"{name}.w", layer] = "the model has no such norm, or one without a weight"
            return
        norm = _probe_norm(module, weight.size)
        if norm is None:
            self.reasons[f"{name}.w", layer] = "it is neither a LayerNorm nor an RMSNorm"
            return
        self.norms[name, layer] = norm
        axes = WEIGHTS[f"{name}.w"].axes
        if weight.size % heads == 0 and weight.size > self.layout.columns[layer].width:
            self._add(f"{name}.w", layer, module, lambda: norm.weight.reshape(heads, -1), axes, source=norm.source)
        else:
            self._add(f"{name}.w", layer, module, lambda: norm.weight.reshape(-1), axes[1:], source=norm.source)

    def _add_mlp(self, layer: int, block: Block) -> None:
        names = ("W_gate", "b_gate", "W_in", "b_in", "W_out", "b_out")
        reason = self._why_unverified("mlp_neurons", layer)
        if block.experts is not None:
            reason = "the layer is a mixture of experts, each of which has its own"
        if reason or block.down_projection is None:
            self.reasons |= {(name, layer): reason or _NO_PART for name in names}
            return
        down = block.down_projection
        self._add("W_out", layer, down, lambda: matrix_of(down).T)
        if (bias := bias_of(down)) is not None:
            self._add("b_out", layer, down, lambda: bias)
        neurons = self.facts.layers[layer].neurons
        if neurons is None:
            told = "no activation that is known makes the neurons of what the MLP reads"
            self.reasons |= {(name, layer): told for name in names[:4]}
            return
        self._add_projection("in", layer, neurons.up)
        if neurons.gate is None:
            self.reasons["W_gate", layer] = self.reasons["b_gate", layer] = "the MLP has no gate"
        else:
            self._add_projection("gate", layer, neurons.gate)

    def _add_projection(self, name: str, layer: int, half: NeuronProjection) -> None:
        self._add(f"W_{name}", layer, half.module, half.matrix)
        if (bias := half.bias()) is not None:
            self._add(f"b_{name}", layer, half.module, lambda: bias)

    def _add_experts(self, layer: int, block: Block) -> None:
        names = [name for name in WEIGHTS if name.startswith(("experts.", "shared.")) or name.endswith("_router")]
        if block.experts is None or block.routing is None:
            self.reasons |= {(name, layer): "the layer is not a mixture of experts" for name in names}
            return
        self._add_router(layer, block)
        if not isinstance(block.experts, (SwitchGLU, SwitchMLP)):
            told = f"its experts are {plain_class(block.experts).__name__}, whose matrices are not known"
            self.reasons |= {(name, layer): told for name in names if name.startswith("experts.")}
        else:
            parts = _EXPERT_PARTS if isinstance(block.experts, SwitchGLU) else _EXPERT_PARTS_UNGATED
            for name, part in parts.items():
                module: nn.Module = block.experts[part]
                self._add(f"experts.{name}", layer, module, partial(_transposed, module))
                if (bias := bias_of(module)) is not None:
                    self._add(f"experts.{name.replace('W_', 'b_')}", layer, module, lambda bias=bias: bias)
        expert, gate = block.routing.shared
        for name, part in _EXPERT_PARTS.items():
            found = None if expert is None else expert.get(part)
            if isinstance(found, nn.Module):
                self._add(f"shared.{name}", layer, found, partial(_transposed, found))
            else:
                self.reasons[f"shared.{name}", layer] = "no expert runs for every token"
        if gate is not None:
            self._add("shared.W_router", layer, gate, partial(_transposed, gate))
        else:
            self.reasons["shared.W_router", layer] = "no expert that runs for every token has a gate"

    def _add_router(self, layer: int, block: Block) -> None:
        assert block.routing is not None
        module = block.routing.linear or block.routing.gating
        reason = self._why_unverified("router_logits", layer)
        if reason or (not isinstance(module.get("weight"), mx.array) and "lora_a" not in module):
            self.reasons["W_router", layer] = self.reasons["b_router", layer] = reason or _NO_PART
            return
        self._add("W_router", layer, module, partial(_transposed, module))
        if (bias := bias_of(module)) is not None:
            self._add("b_router", layer, module, lambda: bias)

    def _add(
        self,
        name: str,
        layer: int | None,
        module: nn.Module,
        make: Callable[[], mx.array],
        axes: Sequence[tensor_pb2.Axis.ValueType] = (),
        source: pb.WeightSource.ValueType | None = None,
    ) -> None:
        found = source_of(module) if source is None else source
        if "b_" in name and source is None:
            found = pb.WEIGHT_SOURCE_STORED
        self.weights[name, layer] = Weight(name, layer, make, axes or WEIGHTS[name].axes, module, found)

    def _why_unverified(self, component: str, layer: int | None) -> str:
        """Why a point that a weight is known by is not there; empty if it is."""
        reason = self.layout.state(Point(component, layer)).reason
        return reason and f"{Point(component, layer)}, which shows what it does, is missing: {reason}"

    def _why_misshapen(self, component: str, layer: int, projection: HeadProjection) -> str:
        heads, width = self.layout.state(Point(component, layer)).axes_extents[-2:]
        shape = projection.matrix().shape
        return "" if shape[:2] == (heads, width) else f"{Point(component, layer)} is not what its projection gives"

    @property
    def _width(self) -> int:
        state = self.layout.state(Point("resid_post", self.layout.num_layers - 1))
        return state.axes_extents[-1] if state.axes_extents else 0


def _by_head(projection: HeadProjection) -> mx.array:
    """(heads, d_model, d_head)"""
    return projection.matrix().swapaxes(1, 2)


def _transposed(module: nn.Module) -> mx.array:
    return matrix_of(module).swapaxes(-1, -2)


def _probe_norm(module: nn.Module, width: int) -> NormWeights | None:
    """What a norm does; None: it is of another kind.

    A norm of a class that is not known is asked: x of 1 and -1 by turns has mean 0 and root mean square 1, so that it
    shows its weight, and its negative the bias. Ones show whether the mean is subtracted.
    """
    kind, known = plain_class(module), module
    epsilon = _epsilon(module)
    stored = known.get("weight")
    if kind in (nn.LayerNorm, nn.RMSNorm) and isinstance(stored, mx.array):
        return NormWeights(stored, known.get("bias"), kind is nn.LayerNorm, epsilon, pb.WEIGHT_SOURCE_STORED)
    if width < 2 or width % 2:
        return None
    call: Any = module
    dtype = stored.dtype if isinstance(stored, mx.array) else mx.float32
    signs = (1 - 2 * (mx.arange(width) % 2)).astype(dtype)
    try:
        seen: mx.array = call(mx.stack([signs, -signs, mx.ones_like(signs), signs * 100])[None])[0]
    except (ValueError, TypeError):
        return None
    plus, minus, ones, larger = (seen[row] for row in range(4))
    weight, bias = (plus - minus) / 2 * signs, (plus + minus) / 2
    is_biased = scalar(mx.abs(bias).max()) > 1e-6
    is_centred = bool(mx.allclose(ones, bias, rtol=0, atol=1e-3).item())
    if not bool(mx.allclose(larger, plus, rtol=1e-2, atol=1e-3).item()):  # the size of x does not matter to a norm
        return None
    weight = weight * (1 + epsilon) ** 0.5
    return NormWeights(weight, bias if is_biased else None, is_centred, epsilon, pb.WEIGHT_SOURCE_EFFECTIVE)


def _epsilon(module: nn.Module) -> float:
    for name in ("eps", "variance_epsilon"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return 0.0


def missing_weights(catalogue: WeightCatalogue) -> Iterator[tuple[str, str]]:
    """The weights of the vocabulary that the model does not have, with why."""
    for name in WEIGHTS:
        if name not in catalogue:
            yield name, catalogue.reason(name)
