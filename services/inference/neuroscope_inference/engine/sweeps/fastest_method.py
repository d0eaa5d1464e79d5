"""The fastest way to run sweeps on a model, proven by a probe: a few edited runs must give the plain way's logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import mlx.core as mx

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.identities import relative_error, tolerance_of
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.batched_run import BaseRun, PatchRow, run_batch
from neuroscope_inference.engine.sweeps.method import SweepMethod
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.prefix_cache import FullCache, PrefixUnavailableError, new_full_caches
from neuroscope_inference.engine.sweeps.single_run import run

_log = logging.getLogger(__name__)
_TOKENS = (3, 1, 2, 1, 4, 2)
_POSITIONS = (0, 2, 4)


def fastest_method(model: LoadedModel) -> SweepMethod:
    """How sweeps run on a model; found out the first time. On the engine's thread."""
    if model.sweep_method is None:
        model.sweep_method = _probe(model)
        if model.sweep_method.reason:
            _log.info("sweeps of %s: %s", model.description.model_id, model.sweep_method.reason)
    return model.sweep_method


def stream_points(model: LoadedModel) -> list[PointIndex]:
    """Points of the residual stream before each block and behind the last one."""
    layout = model.layout
    before = [Point("resid_pre", layer) for layer in range(layout.num_layers)]
    return [layout.index[point] for point in [*before, Point("resid_post", layout.num_layers - 1)]]


def _probe(model: LoadedModel) -> SweepMethod:
    states = model.layout.states
    for index in stream_points(model):
        if states[index].reason or not states[index].is_writable:
            return SweepMethod(pb.SWEEP_METHOD_PLAIN, f"{states[index].point} cannot be read and written")
    reasons: list[str] = []
    for kind, cuts_tail in (
        (pb.SWEEP_METHOD_LAYERS_AND_POSITIONS, True),
        (pb.SWEEP_METHOD_LAYERS_AND_POSITIONS, False),
        (pb.SWEEP_METHOD_LAYERS, False),
    ):
        why = _mismatch(model, kind, cuts_tail=cuts_tail)
        if not why:
            return SweepMethod(kind, reasons[-1] if reasons and kind == pb.SWEEP_METHOD_LAYERS else "", cuts_tail)
        if why not in reasons:
            reasons.append(why)
    return SweepMethod(pb.SWEEP_METHOD_PLAIN, "; ".join(reasons))


def _mismatch(model: LoadedModel, kind: pb.SweepMethod.ValueType, *, cuts_tail: bool) -> str:
    """Why rows that enter at their layers do not give the logits of runs one by one; empty if they do."""
    tokens = [token % model.description.vocab_size for token in _TOKENS]
    last = [len(tokens) - 1]
    reader = OutputReader(model.layout, cuts=model.capabilities.can_cut)
    layers = model.layout.num_layers
    whole: Sequence[FullCache] | None = None
    try:
        if kind == pb.SWEEP_METHOD_LAYERS_AND_POSITIONS:
            whole = new_full_caches(model.network)
        cache = caches.new_cache(model.network) if whole is None else list(whole)
        unedited = run(model, reader, tokens, 0, last, cache, stream_points(model))
        streams = [unedited.activations[index] for index in stream_points(model)]
        base = BaseRun(tokens, 0, streams, whole, cuts_tail)
        for first in _POSITIONS if whole is not None else (0,):
            cells = [(layer, max(first, 2)) for layer in sorted({0, 1 % layers, layers // 2, layers - 1})]
            rows = [PatchRow(_relu_edit(model, layer, position, tokens), layer) for layer, position in cells]
            together = run_batch(model, reader, base, rows, first, last)
            for slot, (layer, position) in enumerate(cells):
                alone = _logits_alone(model, reader, tokens, _relu_edit(model, layer, position, tokens))
                error = relative_error(together[slot : slot + 1], alone)
                tolerance = tolerance_of(model.layout.states[stream_points(model)[0]].dtype)
                if error > tolerance:
                    # A token whose stream is almost nothing without its negative part is divided by its tiny norm, so
                    # rounding grows: the error counts where it exceeds what as small a change of the edit makes.
                    nearby = _relu_edit(model, layer, position, tokens, minimum=tolerance)
                    tolerance = relative_error(_logits_alone(model, reader, tokens, nearby), alone)
                if error > tolerance:
                    what = "what rows share" if whole is None else "prefixes and what rows share"
                    return f"with {what} reused, a probe's logits are off by {error:.1e} (layer {layer})"
    except PrefixUnavailableError as error:
        return str(error)
    except Exception as error:  # whatever the model's code makes of rows that come later
        text = " ".join(str(error).split())[:200] or type(error).__name__
        return f"the model's code does not run with rows that enter at their layers: {text}"
    return ""


def _logits_alone(model: LoadedModel, reader: OutputReader, tokens: Sequence[int], plan: EditPlan) -> mx.array:
    """The last logits of an edited run, the plain way."""
    last = [len(tokens) - 1]
    alone = run(model, reader, tokens, 0, last, caches.new_cache(model.network), plan=plan)
    assert alone.output is not None
    return alone.output


def _relu_edit(
    model: LoadedModel, layer: int, position: int, tokens: Sequence[int], *, minimum: float = 0.0
) -> EditPlan:
    """The residual stream before a layer without what is below `minimum`, at one position."""
    select = site_pb2.Selector()
    select.positions.list.positions.append(position)
    activation = intervention_pb2.Expression(activation=intervention_pb2.Activation())
    limited = intervention_pb2.Expression(clamp=intervention_pb2.Clamp(operand=activation, minimum=minimum))
    edit = intervention_pb2.Intervention(site=Point("resid_pre", layer).to_message(), select=select, value=limited)
    return EditPlan(model, [edit], [len(tokens)], 0, _unasked)


def _unasked(reference: tensor_pb2.TensorReference, path: str) -> Array:
    raise AssertionError(f"the probe refers to no tensor: {path}, {reference}")
