"""What a circuit is made of, by name."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from neuroscope.arrays.grid import Grid
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import edge_name

T = TypeVar("T")
_PARTS_SHOWN = 6
METHODS = {
    name.removeprefix("CIRCUIT_METHOD_").lower().replace("_", "-"): number
    for name, number in pb.CircuitMethod.items()
    if number
}
"""How circuits are searched for, by name: activation-patching, edge-patching, path-patching, attribution-patching, eap,
eap-ig, acdc."""


def method_name(method: pb.CircuitMethod.ValueType) -> str:
    """Such as eap-ig; empty where it is not stated."""
    return next((name for name, number in METHODS.items() if number == method), "")


class NamedParts(dict[str, T]):
    """Nodes or edges of a circuit by name."""

    def __repr__(self) -> str:
        first = ", ".join(list(self)[:_PARTS_SHOWN])
        return f"<{len(self)} by name: {first}{', ...' if len(self) > _PARTS_SHOWN else ''}>"


class CircuitContent:
    """Nodes and edges of a graph, those of the circuit marked, and what is known of them.

    Args:
        message: as the contract carries it; it is kept as it is, and not to be changed.
    """

    def __init__(self, message: pb.Circuit) -> None:
        self.message = message

    @property
    def name(self) -> str:
        """Its name."""
        return self.message.name

    @property
    def model(self) -> pb.CircuitModel:
        """The model whose graph it is part of."""
        return self.message.model

    @property
    def provenance(self) -> pb.CircuitProvenance:
        """Where it comes from: method, metric, prompts, versions, time."""
        return self.message.provenance

    @property
    def evaluation(self) -> pb.CircuitEvaluation | None:
        """How well it does; None: it was not evaluated."""
        return self.message.evaluation if self.message.HasField("evaluation") else None

    @cached_property
    def all_nodes(self) -> NamedParts[pb.CircuitNode]:
        """Every node of the graph by name, in the order in which they write."""
        return NamedParts((node.name, node) for node in self.message.nodes)

    @cached_property
    def all_edges(self) -> NamedParts[pb.CircuitEdge]:
        """Every edge that is listed, by name: input->a0.h0<q>."""
        return NamedParts((edge_name(edge), edge) for edge in self.message.edges)

    @cached_property
    def nodes(self) -> NamedParts[pb.CircuitNode]:
        """The circuit's nodes by name."""
        return NamedParts((name, node) for name, node in self.all_nodes.items() if node.in_circuit)

    @cached_property
    def edges(self) -> NamedParts[pb.CircuitEdge]:
        """The circuit's edges by name."""
        return NamedParts((name, edge) for name, edge in self.all_edges.items() if edge.in_circuit)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """Layer and head of the circuit's heads."""
        return [(node.layer, node.head) for node in self.nodes.values() if node.kind == pb.CIRCUIT_NODE_KIND_HEAD]

    @property
    def size(self) -> float:
        """Share of the graph's edges that are in the circuit."""
        return len(self.edges) / self.message.edge_count if self.message.edge_count else 0.0

    @cached_property
    def graph(self) -> ComponentGraph:
        """The graph that it is part of.

        Raises:
            InvalidRequestError: its nodes are not those of a model, as in circuits made of directions.
        """
        return ComponentGraph.of_nodes(self.all_nodes, self.model)

    @property
    def in_circuit(self) -> Mask:
        """The circuit's edges (sender, receiver)."""
        return self.graph.marked((edge.sender, edge.receiver) for edge in self.edges.values())

    @property
    def edge_scores(self) -> Grid:
        """Scores of edges over sender and receiver; NaN where there is none."""
        graph = self.graph
        values = np.full((len(graph.senders), len(graph.receivers)), np.nan, np.float32)
        for edge in self.message.edges:
            if edge.HasField("score") and graph.has(edge.sender, edge.receiver):
                values[graph.rows[edge.sender], graph.columns[edge.receiver]] = edge.score
        coords = {"sender": graph.senders, "receiver": graph.receivers}
        return Grid("edge_score", values, ("sender", "receiver"), coords)

    @property
    def node_scores(self) -> dict[str, float]:
        """Scores of nodes; of a node that has none, the sum of the magnitudes of what its edges carry."""
        found = {node.name: node.score for node in self.message.nodes if node.HasField("score")}
        if found:
            return found
        sums = dict.fromkeys(self.all_nodes, 0.0)
        for edge in self.message.edges:
            sums[edge.sender] = sums.get(edge.sender, 0.0) + abs(edge.score)
        return sums

    def readers(self, receiver: str) -> list[str]:
        """The nodes that a receiver is part of: several heads where it is a key/value head of theirs."""
        return [receiver] if receiver in self.all_nodes else self.graph.readers(receiver)

    # In words.

    @property
    def summary(self) -> str:
        """Name, model and size in a line."""
        model = f" of {self.model.model_id}" if self.model.model_id else ""
        share = f" ({100 * self.size:.3g} %)" if self.message.edge_count else ""
        return (
            f"{self.name or 'Circuit'}{model}: {len(self.nodes)} nodes, {len(self.edges)} of {self.message.edge_count} "
            f"edges{share}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it: how it was found, and how well it does."""
        found: dict[str, Any] = {}
        told = self.provenance
        if self.message.model.weights_hash:
            found["weights"] = self.message.model.weights_hash
        if told.source:
            found["from"] = told.source
        if told.search.method:
            found["method"] = method_name(told.search.method)
        if told.dataset.pair_count:
            found["prompts"] = f"{told.dataset.pair_count} pairs" + (
                f" of {told.dataset.name}" * bool(told.dataset.name)
            )
        if (measured := self.evaluation) is not None:
            found["metric, clean"] = measured.clean
            found["metric, corrupted"] = measured.corrupted
            found["metric, circuit"] = measured.circuit
            found["faithfulness"] = measured.faithfulness
            for name in ("completeness", "minimality", "cpr", "cmd"):
                if measured.HasField(name):
                    found[name.upper() if len(name) == 3 else name] = getattr(measured, name)
        if told.forward_passes:
            found["forward passes"] = told.forward_passes
        if told.elapsed_seconds:
            found["seconds"] = told.elapsed_seconds
        return found
