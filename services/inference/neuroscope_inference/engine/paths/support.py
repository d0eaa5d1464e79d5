"""Whether a model writes into its residual stream and reads from it as paths assume; found out the first time."""

from __future__ import annotations

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.gradients import GradientPasses
from neuroscope_inference.engine.attributions.graph import EdgeGraph, GraphUnavailableError
from neuroscope_inference.engine.attributions.support import differs, probe_tokens, unexplained_receiver
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.residual_writes import mlp_contribution, mlp_input_stream, residual_contribution
from neuroscope_inference.engine.sweeps.output_reader import OutputReader

_ATTENTION = ("head_output", "attn_out")


def why_no_paths(model: LoadedModel) -> str:
    """Why no path of a model can be patched; empty if they can. A probe of a few tokens, on the engine's thread."""
    if model.why_no_paths is None:
        model.why_no_paths = _probe(model)
    return model.why_no_paths


def _probe(model: LoadedModel) -> str:
    layout = model.layout
    try:
        graph = EdgeGraph(layout)
    except GraphUnavailableError as missing:
        return str(missing)
    layers = range(layout.num_layers)
    mlps = [layer for layer in layers if layout.blocks[layer].mlp is not None]
    attention = [(Point(name, layer), Point("attn_contrib", layer)) for layer in layers for name in _ATTENTION]
    sent = attention + [(Point("mlp_out", layer), Point("mlp_contrib", layer)) for layer in mlps]
    named = [*(point for pair in sent for point in pair), *(mlp_input_stream(layout, layer) for layer in mlps)]
    for point in named:
        if reason := layout.state(point).reason:
            return f"{point} is missing: {reason}"
    reads = [*graph.receiver_points, *graph.streams, *(layout.index[point] for point in named)]
    passes = GradientPasses(model, OutputReader(layout, cuts=False), lambda length: [length - 1])
    seen = passes.forward(probe_tokens(model), list(dict.fromkeys(reads))).activations
    if reason := unexplained_receiver(model, graph, seen):
        return reason
    for point, contribution in sent:
        index = layout.index[contribution]
        found = residual_contribution(layout, point, seen[layout.index[point]])
        if differs(layout.states, index, found, seen[index]):
            return f"{contribution} does not follow from {point} by the modules that are known"
    for layer in mlps:
        index = layout.index[Point("mlp_contrib", layer)]
        found = mlp_contribution(layout, layer, seen[layout.index[mlp_input_stream(layout, layer)]])
        if differs(layout.states, index, found, seen[index]):
            return f"the MLP of layer {layer} reads more than the stream before it"
    return ""
