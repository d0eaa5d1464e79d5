"""What a model does with its weights, as one forward pass of a few tokens shows it: nothing is looked up by its name.

Whether queries and keys are rotated or normed, what scores are multiplied with, which activation an MLP has and which
half of a fused projection is its gate, how the residual stream begins, and how logits end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.hook_plan import HookPlan
from neuroscope_inference.engine.identities import normed_heads, relative_error, tolerance_of, unit_heads
from neuroscope_inference.engine.layout import Block, Layout
from neuroscope_inference.engine.linear import bias_of, matrix_of

_TOKENS = (3, 1, 4, 1, 5, 9, 2, 6)
_READ = ("embedding", "resid_pre", "q_proj", "k_proj", "query", "key", "attention_scores", "final_norm", "logits")
_READ_OF_MLP = ("mlp_out", "mlp_neurons")
_MASKED = -1e30
_SOFTCAP_OF_LOGITS = ("final_logit_softcapping", "logits_soft_cap")
_SOFTCAP_OF_SCORES = ("attn_logit_softcapping",)

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": nn.silu,
    "gelu_tanh": nn.gelu_approx,
    "gelu": nn.gelu,
    "gelu_sigmoid": nn.gelu_fast_approx,
    "relu": nn.relu,
    "relu_squared": nn.relu2,
}
"""Activations of neurons, by the contract's names."""
Activations = Mapping[Point, mx.array]


@dataclass(frozen=True, slots=True)
class NeuronFacts:
    """How the neurons of a dense MLP come of what it reads.

    Args:
        activation: key of `ACTIVATIONS`.
        up: (d_model, d_mlp) makes what is activated, or what is multiplied with the gate.
        gate: makes what is activated where there is a gate.
    """

    activation: str
    up: NeuronProjection
    gate: NeuronProjection | None


@dataclass(frozen=True, slots=True)
class NeuronProjection:
    """A projection into neurons, or one of the halves of a fused one.

    Args:
        module: the projection.
        half: 0 the first, 1 the second; None: the whole of it.
    """

    module: nn.Module
    half: int | None = None

    def matrix(self) -> mx.array:
        """(d_model, d_mlp), lazy."""
        return self._part(matrix_of(self.module)).T

    def bias(self) -> mx.array | None:
        """(d_mlp,), lazy; None: there is none."""
        bias = bias_of(self.module)
        return None if bias is None else self._part(bias)

    def apply(self, x: mx.array) -> mx.array:
        """What it makes of the MLP's input (batch, position, d_model), by the module's own code."""
        call: Any = self.module
        made: mx.array = call(x)
        return made if self.half is None else mx.split(made, 2, axis=-1)[self.half]

    def _part(self, rows: mx.array) -> mx.array:
        return rows if self.half is None else mx.split(rows, 2, axis=0)[self.half]


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What one layer does; see `WeightsLayer` of the contract."""

    is_rotary: bool = False
    is_normed: bool = False
    score_scale: float = 0.0
    score_softcap: float | None = None
    neurons: NeuronFacts | None = None


@dataclass(frozen=True, slots=True)
class LogitHead:
    """How logits come of what the final norm gives: softcap(scale * (x @ W_U + b_U)).

    Args:
        module: whose matrix is W_U, transposed.
        is_tied: whether that is the token embedding.
        scale: a factor.
        softcap: None: there is none.
    """

    module: nn.Module
    is_tied: bool
    scale: float
    softcap: float | None


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What a model does with its weights.

    Args:
        embedding_scale: what token embeddings are multiplied with as they enter the stream; 0: they do not enter so.
        head: None where no matrix that is known makes the logits.
        layers: of each layer.
    """

    embedding_scale: float
    head: LogitHead | None
    layers: list[LayerFacts] = field(default_factory=list[LayerFacts])


def probe_weights(layout: Layout) -> WeightFacts:
    """The facts of a model; one forward pass, on the engine's thread."""
    names = [name for name in (*_READ, *_READ_OF_MLP) if name != "resid_pre"]
    points = [state.point for state in layout.states if not state.reason and state.point.component in names]
    points += [point for point in (Point("resid_pre", 0),) if not layout.state(point).reason]
    hook_plan = HookPlan(layout.capture_mask(layout.index[point] for point in points))
    call: Any = layout.model
    with layout.active_hooks.activate(hook_plan):
        logits: mx.array = call(mx.array([_TOKENS]), cache=caches.new_cache(layout.model))
    mx.eval(logits, list(hook_plan.captured.values()))
    seen = {layout.states[index].point: value for index, value in hook_plan.captured.items()}
    layers = [_probe_layer(layout, layer, block, seen) for layer, block in enumerate(layout.blocks)]
    return WeightFacts(_embedding_scale(layout, seen), _probe_head(layout, seen), layers)


def _probe_layer(layout: Layout, layer: int, block: Block, seen: Activations) -> LayerFacts:
    names = ("q_proj", "k_proj", "query", "key", "attention_scores")
    projected, _, query, key, scores = (seen.get(Point(name, layer)) for name in names)
    is_rotary = is_normed = False
    if projected is not None and query is not None and projected.shape == query.shape:
        is_normed = block.query_norm is not None or _differ(projected[:, :1], query[:, :1])
        directions = (unit_heads(normed_heads(block.query_norm, projected)), unit_heads(query))
        is_rotary = _differ(*(x[:, 1:] for x in directions))
    scale, softcap = 0.0, None
    if query is not None and key is not None and scores is not None:
        scale, softcap = _score_scale(block, query, key, scores)
    return LayerFacts(is_rotary, is_normed, scale, softcap, _probe_neurons(layer, block, seen))


def _score_scale(block: Block, query: mx.array, key: mx.array, scores: mx.array) -> tuple[float, float | None]:
    """What products of queries and keys are multiplied with, and the softcap; 0 where nothing explains the scores."""
    heads, kv_heads = query.shape[2], key.shape[2]
    keys = mx.repeat(key, heads // kv_heads, axis=2).swapaxes(1, 2).astype(mx.float32)
    products = query.swapaxes(1, 2).astype(mx.float32) @ keys.swapaxes(2, 3)  # (1, heads, queries, keys)
    found = scores[..., : products.shape[-1]].astype(mx.float32)
    is_seen = found > _MASKED
    found, products = mx.where(is_seen, found, 0), mx.where(is_seen, products, 0)
    for softcap in _softcaps([block.attention], _SOFTCAP_OF_SCORES):
        raw = found if softcap is None else softcap * mx.arctanh(mx.clip(found / softcap, -0.999, 0.999))
        scale = scalar((raw * products).sum() / mx.maximum(mx.square(products).sum(), 1e-30))
        expected = products * scale
        expected = expected if softcap is None else softcap * mx.tanh(expected / softcap)
        if relative_error(expected, found) <= 10 * tolerance_of(scores.dtype):
            return scale, softcap
    return 0.0, None


def _probe_neurons(layer: int, block: Block, seen: Activations) -> NeuronFacts | None:
    """The way that explains the neurons best: in bfloat16 several do, but the model's own to the bit."""
    read, neurons = seen.get(Point("mlp_out", layer, is_input=True)), seen.get(Point("mlp_neurons", layer))
    if read is None or neurons is None:
        return None
    best, least = None, tolerance_of(neurons.dtype)
    for up, gate in _candidate_projections(block):
        raised, gated = up.apply(read), None if gate is None else gate.apply(read)
        if raised.shape != neurons.shape:
            continue
        for name, activation in ACTIVATIONS.items():
            made = activation(raised) if gated is None else activation(gated) * raised
            if (error := relative_error(made, neurons)) <= least:
                best, least = NeuronFacts(name, up, gate), error
    return best


def _candidate_projections(block: Block) -> Iterator[tuple[NeuronProjection, NeuronProjection | None]]:
    """Projections that may make neurons: (what is raised, its gate)."""
    up, gate, fused = block.up_projection, block.gate_projection, block.fused_up_projection
    if fused is not None:
        yield NeuronProjection(fused, 1), NeuronProjection(fused, 0)
        yield NeuronProjection(fused, 0), NeuronProjection(fused, 1)
    if up is not None and gate is not None:
        yield NeuronProjection(up), NeuronProjection(gate)
        yield NeuronProjection(gate), NeuronProjection(up)
    for alone in (up, gate):
        if alone is not None:
            yield NeuronProjection(alone), None


def _embedding_scale(layout: Layout, seen: Activations) -> float:
    embedded, stream = seen.get(Point("embedding")), seen.get(Point("resid_pre", 0))
    if embedded is None or stream is None or embedded.shape != stream.shape:
        return 0.0
    embedded, exact = embedded.astype(mx.float32), stream.dtype
    if layout.positions is not None:
        stream = stream - matrix_of(layout.positions)[: len(_TOKENS)]
    stream = stream.astype(mx.float32)
    scale = scalar((embedded * stream).sum() / mx.maximum(mx.square(embedded).sum(), 1e-30))
    return scale if relative_error(embedded * scale, stream) <= tolerance_of(exact) else 0.0


def _probe_head(layout: Layout, seen: Activations) -> LogitHead | None:
    normed, logits = seen.get(Point("final_norm")), seen.get(Point("logits"))
    if normed is None or logits is None:
        return None
    found = logits.astype(mx.float32)
    for module in (layout.head, layout.embedding):
        if module is None:
            continue
        call: Any = module if module is layout.head else getattr(module, "as_linear", None)
        if call is None:
            continue
        raw: mx.array = call(normed).astype(mx.float32)
        if raw.shape != found.shape:
            continue
        for softcap in _softcaps(layout.model.modules(), _SOFTCAP_OF_LOGITS):
            capped = found if softcap is None else softcap * mx.arctanh(mx.clip(found / softcap, -0.999, 0.999))
            scale = scalar((raw * capped).sum() / mx.maximum(mx.square(raw).sum(), 1e-30))
            expected = raw * scale if softcap is None else softcap * mx.tanh(raw * scale / softcap)
            if relative_error(expected, found) <= tolerance_of(logits.dtype):
                return LogitHead(module, module is layout.embedding, _rounded(scale), softcap)
    return None


def _softcaps(modules: Any, names: tuple[str, ...]) -> list[float | None]:
    """The softcaps that modules speak of, and none."""
    spoken = [getattr(module, name, None) for module in modules for name in names]
    return [*dict.fromkeys(float(cap) for cap in spoken if isinstance(cap, (int, float)) and cap), None]


def _rounded(scale: float) -> float:
    """A factor that was fitted: 1 where it is that up to rounding."""
    return 1.0 if abs(scale - 1) < 1e-4 else scale


def _differ(a: mx.array, b: mx.array) -> bool:
    return relative_error(a, b) > tolerance_of(a.dtype)
