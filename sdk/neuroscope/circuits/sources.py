"""Circuits from the scores of sweeps and attributions, and from directions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.extent import DEFAULT_SIZE, Extent
from neuroscope.circuits.graph import ComponentGraph
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.attribution_result import EDGES, AttributionResult
from neuroscope.experiments.scores import Scores
from neuroscope.experiments.sweep_result import SweepResult
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from neuroscope.vocabulary.component_names import INPUT, LOGITS
from neuroscope.vocabulary.model_info import ModelInfo

if TYPE_CHECKING:
    from neuroscope.directions import Directions

_HEADS = ("head_output", "attn_out", "attn_contrib")
_MLPS = ("mlp_out", "mlp_contrib")


def circuit_model(info: ModelInfo) -> pb.CircuitModel:
    """The description of a model that circuits store."""
    model = info.model
    return pb.CircuitModel(
        model_id=model.model_id,
        architecture=model.architecture,
        weights_hash=model.weights_hash,
        layer_count=model.num_layers,
        head_count=model.num_heads,
        key_value_head_count=model.num_kv_heads,
        d_model=model.d_model,
        is_parallel=not info.available("resid_mid"),
    )


def of_attribution(result: AttributionResult, model: ModelInfo | None, extent: Mapping[str, Any]) -> pb.Circuit:
    """See `Circuit.from_attribution`."""
    plan, request = result.plan, result.attribution.request
    described = pb.CircuitModel(model_id="" if plan is None else plan.model_id)
    if model is not None:
        described = circuit_model(model)
    method = pb.CIRCUIT_METHOD_ATTRIBUTION_PATCHING
    if EDGES in result.names:
        method = pb.CIRCUIT_METHOD_EAP if request.edges.steps == 1 else pb.CIRCUIT_METHOD_EAP_IG
    steps = 0 if plan is None else plan.steps
    provenance = _provenance("attribution", request, method, steps)
    if EDGES not in result.names:
        return _of_nodes(result, _needed(model), extent, provenance)
    assert plan is not None
    graph = ComponentGraph.from_plan(plan.senders, plan.receivers)
    if model is None:
        _infer(described, graph)
    return _of_edges(graph, _pair_mean(result[EDGES]).values, described, extent, provenance)


def of_sweep(result: SweepResult, model: ModelInfo, extent: Mapping[str, Any]) -> pb.Circuit:
    """See `Circuit.from_sweep`."""
    request = result.experiment.request
    paths = [name for name in result.names if {"sender", "receiver"} <= set(result[name].dims)]
    if not paths:
        provenance = _provenance("sweep", request, pb.CIRCUIT_METHOD_ACTIVATION_PATCHING)
        return _of_nodes(result, model, extent, provenance)
    described = circuit_model(model)
    graph = ComponentGraph.from_model(described)
    values: NDArray[np.float32] = np.full(graph.mask.shape, np.nan, np.float32)
    for name in paths:
        scores = _pair_mean(result[name].effects())
        for row, sender in enumerate(scores.coords["sender"]):
            for column, receiver in enumerate(scores.coords["receiver"]):
                if sender in graph.rows and receiver in graph.columns:
                    values[graph.rows[sender], graph.columns[receiver]] = scores.values[row, column]
    if not np.isfinite(values).any():
        raise InvalidRequestError("the sweep has no path between one sender and one receiver", field="result")
    provenance = _provenance("sweep", request, pb.CIRCUIT_METHOD_PATH_PATCHING)
    return _of_edges(graph, values, described, extent, provenance)


def of_directions(directions: Directions, name: str) -> pb.Circuit:
    """See `Circuit.from_directions`."""

    placed = [(f"d.{point}", found) for point, found in directions.items() if found.point.layer is not None]
    placed.sort(key=lambda entry: entry[1].point.layer or 0)
    if not placed:
        raise InvalidRequestError("no direction is of a layer", field="directions")
    provenance = directions.provenance
    made = pb.Circuit(name=name or "directions", model=pb.CircuitModel(model_id=str(provenance.get("model_id", ""))))
    made.provenance.CopyFrom(pb.CircuitProvenance(source="directions", created_at_ms=_now_ms()))
    made.nodes.add(name=INPUT, kind=pb.CIRCUIT_NODE_KIND_INPUT, in_circuit=True)
    for node, found in placed:
        accuracy = found.separation.accuracy
        made.nodes.add(
            name=node,
            kind=pb.CIRCUIT_NODE_KIND_DIRECTION,
            layer=found.point.layer,
            score=accuracy if np.isfinite(accuracy) else None,
            in_circuit=True,
            metadata={"norm": f"{found.norm:.6g}", "method": str(provenance.get("method", ""))},
        )
    made.nodes.add(name=LOGITS, kind=pb.CIRCUIT_NODE_KIND_LOGITS, in_circuit=True)
    made.edges.add(sender=INPUT, receiver=placed[0][0], in_circuit=True)
    for (sender, before), (receiver, after) in pairwise(placed):
        same_width = before.vector.shape == after.vector.shape
        cosine = float(before.vector @ after.vector) / (before.norm * after.norm) if same_width else None
        made.edges.add(sender=sender, receiver=receiver, score=cosine, in_circuit=True)
    made.edges.add(sender=placed[-1][0], receiver=LOGITS, in_circuit=True)
    made.edge_count = len(made.edges)
    return made


def _of_edges(
    graph: ComponentGraph,
    values: NDArray[np.float32],
    model: pb.CircuitModel,
    extent: Mapping[str, Any],
    provenance: pb.CircuitProvenance,
) -> pb.Circuit:

    no_edges = np.zeros_like(graph.mask)
    whole = CircuitContent.from_mask(graph, no_edges, model=model, edge_scores=values, provenance=provenance)
    return whole.strongest(**(extent or {"size": DEFAULT_SIZE})).message


def _of_nodes(
    result: AttributionResult | SweepResult,
    info: ModelInfo,
    extent: Mapping[str, Any],
    provenance: pb.CircuitProvenance,
) -> pb.Circuit:

    model = circuit_model(info)
    graph = ComponentGraph.from_model(model)
    found: dict[str, float] = {}
    for name in result.names:
        scores = result[name]
        if not isinstance(result, AttributionResult):
            scores = scores.effects()
        if name.partition("#")[0] in _HEADS and {"layer", "head"} <= set(scores.dims):
            for place, value in _reduced(scores, ("layer", "head"), linear=scores.is_change):
                found[f"a{place[0]}.h{place[1]}"] = value
        elif name.partition("#")[0] in _MLPS and "layer" in scores.dims:
            for place, value in _reduced(scores, ("layer",), linear=scores.is_change):
                found[f"m{place[0]}"] = value
    found = {name: value for name, value in found.items() if name in graph.rows and np.isfinite(value)}
    if not found:
        raise InvalidRequestError(
            "the result has no scores of heads or MLPs: head_output by layer and head, mlp_out by layer", field="result"
        )
    chosen = Extent.of(extent or {"size": DEFAULT_SIZE}).nodes(found, len(graph.senders))
    between = graph.induced([INPUT, *chosen])
    mask = graph.pruned(between)
    return CircuitContent.from_mask(graph, mask, model=model, node_scores=found, provenance=provenance).message


def _pair_mean(scores: Scores) -> Scores:
    return scores.mean("pair") if "pair" in scores.dims else scores


def _reduced(scores: Scores, dims: tuple[str, ...], *, linear: bool) -> list[tuple[tuple[int, ...], float]]:
    """Values along some axes: the mean over pairs; over other axes the sum if values are additive, else the largest."""
    scores = _pair_mean(scores)
    values: NDArray[Any] = np.moveaxis(scores.values, [scores.dims.index(dim) for dim in dims], range(len(dims)))
    rest = np.asarray(values.reshape(*values.shape[: len(dims)], -1), np.float64)
    if linear:
        flat = rest.sum(-1)
    else:
        strongest = np.abs(np.nan_to_num(rest)).argmax(-1)
        flat = np.take_along_axis(rest, strongest[..., None], -1)[..., 0]
    places = [
        tuple(int(scores.coords[dim][index]) for dim, index in zip(dims, where, strict=True))
        for where in np.ndindex(flat.shape)
    ]
    return list(zip(places, flat.reshape(-1).tolist(), strict=True))


def _provenance(
    source: str,
    request: experiment_pb2.RunSweepRequest | experiment_pb2.AttributeRequest,
    method: pb.CircuitMethod.ValueType,
    steps: int = 0,
) -> pb.CircuitProvenance:
    return pb.CircuitProvenance(
        source=source,
        search=pb.CircuitSearch(method=method, steps=steps, edited_run=request.edited_run),
        metric=request.metric,
        dataset=pb.CircuitDataset(pair_count=len(request.pairs)),
        created_at_ms=_now_ms(),
    )


def _needed(model: ModelInfo | None) -> ModelInfo:
    if model is None:
        raise InvalidRequestError(
            "scores of components need the model to make a circuit: model=client.model()", field="model"
        )
    return model


def _infer(model: pb.CircuitModel, graph: ComponentGraph) -> None:
    """Fills in what the graph implies about its model."""
    layers = [name for name in graph.senders if name.startswith("m")]
    heads = [name for name in graph.senders if name.startswith("a0.")]
    model.layer_count, model.head_count = len(layers), len(heads)
    model.key_value_head_count = len(heads) // graph.group_size
    first = graph.columns.get("m0")
    model.is_parallel = first is not None and graph.sender_counts[first] == 1


def _now_ms() -> int:
    return int(time.time() * 1000)
