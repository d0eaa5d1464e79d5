"""Whether gradients of a model are what they are taken for, and whether its edges add up; found out the first time.

Both are probes of a few tokens, on the engine's thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.attributions.gradients import GradientPasses, PassResult
from neuroscope_inference.engine.attributions.graph import EdgeGraph, GraphUnavailableError
from neuroscope_inference.engine.attributions.nodes import INPUT
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.identities import relative_error, tolerance_of
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.residual_writes import call_module
from neuroscope_inference.engine.sweeps.output_reader import OutputReader

_TOKENS = (3, 1, 2, 1, 4, 2)


def why_no_gradients(model: LoadedModel) -> str:
    """Why no gradient can be taken on a model; empty if it can."""
    if model.why_no_gradients is None:
        model.why_no_gradients = _probe_gradients(model)
    return model.why_no_gradients


def why_no_edges(model: LoadedModel) -> str:
    """Why the edges of a model cannot be scored; empty if they can."""
    if model.why_no_edges is None:
        model.why_no_edges = _probe_edges(model)
    return model.why_no_edges


def probe_tokens(model: LoadedModel) -> mx.array:
    """Tokens of a probe (1, positions)."""
    return mx.array([[token % model.description.vocab_size for token in _TOKENS]])


def _probe_gradients(model: LoadedModel) -> str:
    layout, tokens = model.layout, probe_tokens(model)
    state = layout.state(INPUT)
    if state.reason or not state.is_writable:
        return f"{INPUT} cannot be read and written: {state.reason or 'nothing is computed from it'}"
    point, call = layout.index[INPUT], model.network
    passes = GradientPasses(model, OutputReader(layout, cuts=False), lambda length: [length - 1])
    try:
        cached: mx.array = _call(call, tokens, caches.new_cache(model.network))
        error = relative_error(_call(call, tokens, None), cached)
        if error > tolerance_of(cached.dtype):
            return f"its logits without a cache, which has no gradient, are off by {error:.1e}"
        weights = mx.cos(mx.arange(cached.shape[-1]))  # of all logits, none alike
        passed = _probe_backward(passes, tokens, weights)
    except Exception as error:  # whatever MLX and the model's code make of it
        return " ".join(str(error).split())[:200] or type(error).__name__
    gradient = passed.gradients[point]
    if not bool(mx.isfinite(gradient).all().item()):
        return "the gradient of a probe is not finite"
    if not bool((gradient != 0).any().item()):
        return "the gradient of a probe is zero: something in between has none"
    model.cuts_last_mlp = _can_cut_last_mlp(passed, passes, tokens, weights)
    return ""


def _can_cut_last_mlp(whole: PassResult, passes: GradientPasses, tokens: mx.array, weights: mx.array) -> bool:
    """Whether the last MLP may be computed for the end's positions alone."""
    try:
        cut = _probe_backward(replace(passes, cuts_last_mlp=True), tokens, weights)
    except Exception:  # an MLP that is called in another way than with the stream alone
        return False
    return all(
        relative_error(one, other) <= tolerance_of(one.dtype)
        for one, other in (
            (cut.output, whole.output),
            *((cut.gradients[p], whole.gradients[p]) for p in whole.gradients),
        )
    )


def _probe_backward(passes: GradientPasses, tokens: mx.array, weights: mx.array) -> PassResult:
    """The gradient of a sum of the last logits by what enters the first block."""
    point = passes.model.layout.index[INPUT]
    return passes.backward(tokens, lambda end: (end * weights).mean(axis=(1, 2)), [], [point])


def _call(network: Any, tokens: mx.array, cache: Any) -> mx.array:
    return network(tokens, cache=cache)


def _probe_edges(model: LoadedModel) -> str:
    layout = model.layout
    try:
        graph = EdgeGraph(layout)
    except GraphUnavailableError as missing:
        return str(missing)
    outputs = [
        layout.index[point]
        for layer in range(layout.num_layers)
        for point in (Point("attn_out", layer), Point("attn_contrib", layer))
    ]
    for point in graph.receiver_points:
        if not layout.states[point].is_writable:
            return f"{layout.states[point].point} cannot be written"
    for point in outputs:
        if reason := layout.states[point].reason:
            return f"{layout.states[point].point} is missing: {reason}"
    reads = [*graph.sender_points, *graph.receiver_points, *graph.streams, *outputs]
    passes = GradientPasses(model, OutputReader(layout, cuts=False), lambda length: [length - 1])
    seen = passes.forward(probe_tokens(model), list(dict.fromkeys(reads))).activations
    return unexplained_receiver(model, graph, seen) or _unexplained_attention(model, seen)


def unexplained_receiver(model: LoadedModel, graph: EdgeGraph, seen: Any) -> str:
    """Which receiver does not read the stream by one norm and one matrix; empty if all do."""
    layout = model.layout
    for reading in graph.receiver_groups:
        stream = seen[reading.stream]
        normed = stream if reading.norm is None else call_module(reading.norm, stream)
        for part in reading.projections:
            expected, found = normed, seen[part.point]
            if part.matrix is not None:
                expected = mx.einsum("btd,hwd->bthw", normed, part.matrix())
                expected = expected + (found - expected)[:, :1]  # the bias, which is the same at all positions
            if differs(layout.states, part.point, expected, found):
                point = layout.states[part.point].point
                return f"{point} does not follow from {layout.states[reading.stream].point} by one norm and one matrix"
    return ""


def _unexplained_attention(model: LoadedModel, seen: Any) -> str:
    """Which layer's heads do not add up to what attention writes."""
    layout = model.layout
    for layer, block in enumerate(layout.blocks):
        output, contribution = (layout.index[Point(name, layer)] for name in ("attn_out", "attn_contrib"))
        heads = seen[layout.index[Point("head_output", layer)]]
        assert block.output_projection is not None
        projected = call_module(block.output_projection, heads.reshape(*heads.shape[:2], -1))
        if differs(layout.states, output, projected, seen[output]):
            return f"the outputs of layer {layer}'s heads do not add up to that of its attention"
        if differs(layout.states, output, seen[output] * block.contribution_scale, seen[contribution]):
            return f"a norm stands behind the attention of layer {layer}: what its heads write does not add up"
    return ""


def differs(states: Any, point: PointIndex, expected: mx.array, found: mx.array) -> bool:
    """Whether two values of a point differ by more than rounding."""
    return relative_error(expected, found) > tolerance_of(states[point].dtype)
