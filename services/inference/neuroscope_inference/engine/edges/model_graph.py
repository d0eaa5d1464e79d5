"""The graph of a loaded model, or why it has none."""

from __future__ import annotations

from neuroscope.errors import UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.attributions.graph import EdgeGraph, GraphUnavailableError
from neuroscope_inference.engine.attributions.support import why_no_edges
from neuroscope_inference.engine.model import LoadedModel


def edge_graph(model: LoadedModel, field: str) -> EdgeGraph:
    """The graph of a model.

    Raises:
        UnavailableSiteError: it has none; says why.
    """
    try:
        return EdgeGraph(model.layout)
    except GraphUnavailableError as missing:
        raise _unavailable(model, str(missing), field) from None


def check_edges(model: LoadedModel, field: str) -> None:
    """Refuses a model whose edges do not add up; a probe finds it out, the first time. On the engine's thread.

    Raises:
        UnavailableSiteError: says why.
    """
    if reason := why_no_edges(model):
        raise _unavailable(model, reason, field)


def _unavailable(model: LoadedModel, reason: str, field: str) -> UnavailableSiteError:
    return UnavailableSiteError(f"{model.description.model_id} has no graph of edges: {reason}", field=field)


def describe_edge_graph(model: LoadedModel, field: str) -> pb.GetEdgeGraphResponse:
    """The graph as the contract carries it; on the engine's thread.

    Raises:
        UnavailableSiteError: the model has none, or its edges do not add up; says why.
    """
    graph = edge_graph(model, field)
    check_edges(model, field)
    return pb.GetEdgeGraphResponse(
        model_id=model.description.model_id,
        senders=graph.senders,
        receivers=graph.receivers,
        edge_count=sum(receiver.sender_count for receiver in graph.receivers),
    )
