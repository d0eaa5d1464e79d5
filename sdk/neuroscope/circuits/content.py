"""What a circuit is made of, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.display import Displayable
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.labelled_array import LabelledArray
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place, edge_name

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


MOST_EDGES = 200_000
"""Edges that a circuit lists; of those outside of it, the weakest are left out beyond that."""


class NamedParts(dict[str, T]):
    """Nodes or edges of a circuit by name."""

    def __repr__(self) -> str:
        first = ", ".join(list(self)[:_PARTS_SHOWN])
        return f"<{len(self)} by name: {first}{', ...' if len(self) > _PARTS_SHOWN else ''}>"


class CircuitContent(Displayable):
    """Nodes and edges of a graph, those of the circuit marked, and what is known of them.

    Args:
        message: as the contract carries it; it is kept as it is, and not to be changed.
    """

    def __init__(self, message: pb.Circuit) -> None:
        self.message = message

    @classmethod
    def from_mask(
        cls,
        graph: ComponentGraph,
        in_circuit: Mask,
        *,
        model: pb.CircuitModel,
        name: str = "",
        description: str = "",
        edge_scores: NDArray[np.floating] | None = None,
        node_scores: Mapping[str, float] | None = None,
        provenance: pb.CircuitProvenance | None = None,
        evaluation: pb.CircuitEvaluation | None = None,
    ) -> Self:
        """From matrices.

        Args:
            graph: of the model.
            in_circuit: the circuit's edges (sender, receiver); nodes at their ends, input and logits are in it too.
            model: the model.
            name: of the circuit.
            description: what it does.
            edge_scores: of edges (sender, receiver); NaN where there is none.
            node_scores: by name.
            provenance: where it comes from.
            evaluation: how well it does.
        """
        kept = set(graph.nodes_of(in_circuit))
        message = pb.Circuit(
            name=name,
            description=description,
            edge_count=graph.edge_count,
            model=model,
            provenance=provenance,
            evaluation=evaluation,
        )
        for node in graph.nodes:
            place, score = Place.of(node), (node_scores or {}).get(node)
            message.nodes.add(
                name=node,
                kind=place.kind,
                layer=place.layer,
                head=place.head,
                score=None if score is None else float(score),
                in_circuit=node in kept,
            )
        listed = in_circuit.copy()
        if edge_scores is not None:
            others = np.where(in_circuit, np.nan, edge_scores)
            listed |= graph.strongest(others, max(MOST_EDGES - int(in_circuit.sum()), 0))
        for row, column in np.argwhere(listed):
            score = np.nan if edge_scores is None else edge_scores[row, column]
            message.edges.add(
                sender=graph.senders[row],
                receiver=graph.receivers[column],
                score=float(score) if np.isfinite(score) else None,
                in_circuit=bool(in_circuit[row, column]),
            )
        return cls(message)

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
        return ComponentGraph.from_nodes(self.all_nodes, self.model)

    @property
    def in_circuit(self) -> Mask:
        """The circuit's edges (sender, receiver)."""
        return self.graph.mask_of((edge.sender, edge.receiver) for edge in self.edges.values())

    @property
    def edge_scores(self) -> LabelledArray:
        """Scores of edges over sender and receiver; NaN where there is none."""
        graph = self.graph
        values = np.full((len(graph.senders), len(graph.receivers)), np.nan, np.float32)
        for edge in self.message.edges:
            if edge.HasField("score") and graph.has_edge(edge.sender, edge.receiver):
                values[graph.rows[edge.sender], graph.columns[edge.receiver]] = edge.score
        coords = {"sender": graph.senders, "receiver": graph.receivers}
        return LabelledArray("edge_score", values, ("sender", "receiver"), coords)

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

    # Other circuits of the same graph.

    def strongest(
        self, *, size: float | None = None, count: int | None = None, threshold: float | None = None, prune: bool = True
    ) -> Self:
        """The circuit of the strongest edges by their scores; it has no evaluation.

        Args:
            size: share of the graph's edges, above 0, at most 1.
            count: so many edges.
            threshold: least magnitude of a score.
            prune: leaves out edges that no path of the circuit leads through from input to logits.

        Raises:
            InvalidRequestError: none or several are given, or one is out of its range.
        """
        extent, graph = Extent(size, count, threshold), self.graph
        chosen = extent.edges(graph, self.edge_scores.values, self.message.edge_count)
        return self.with_edges(graph.edge_pairs(graph.pruned(chosen) if prune else chosen))

    def with_edges(self, edges: Iterable[str | tuple[str, str]]) -> Self:
        """The circuit of these edges of the same graph: their names, or sender and receiver. It has no evaluation.

        Raises:
            InvalidRequestError: the graph has no such edge.
        """
        graph = self.graph
        pairs = [_ends(edge) for edge in edges]
        for sender, receiver in pairs:
            if sender not in graph.rows or receiver not in graph.columns:
                missing, known = (sender, graph.rows) if sender not in graph.rows else (receiver, graph.columns)
                close = nearest(missing, known)
                raise InvalidRequestError(
                    f"the graph has no {missing!r}; nearest: {', '.join(close)}", field="edges", valid=close
                )
        mask = graph.mask_of(pairs)
        if mask.sum() != len(set(pairs)):
            row, column = next(pair for pair in pairs if not graph.mask[graph.rows[pair[0]], graph.columns[pair[1]]])
            raise InvalidRequestError(f"{row} does not reach {column}", field="edges")
        made = type(self).from_mask(
            graph,
            mask,
            model=self.model,
            name=self.name,
            description=self.message.description,
            edge_scores=self.edge_scores.values,
            node_scores={node.name: node.score for node in self.message.nodes if node.HasField("score")},
            provenance=self.provenance if self.message.HasField("provenance") else None,
        )
        for node in made.message.nodes:
            before = self.all_nodes[node.name]
            node.label = before.label
            node.metadata.update(before.metadata)
        return made

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


def _ends(edge: str | tuple[str, str]) -> tuple[str, str]:
    if not isinstance(edge, str):
        return edge
    sender, arrow, receiver = edge.partition("->")
    if not arrow:
        raise InvalidRequestError(f"{edge!r} is no edge such as input->a0.h0<q>", field="edges")
    return sender, receiver
