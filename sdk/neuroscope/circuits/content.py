"""The nodes and edges of a circuit, and circuits of other edges of the same graph."""

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
NORMAL_95 = 1.96
"""97.5th percentile of the standard normal distribution."""
METHODS = {
    name.removeprefix("CIRCUIT_METHOD_").lower().replace("_", "-"): number
    for name, number in pb.CircuitMethod.items()
    if number
}
"""Search methods by name: activation-patching, edge-patching, path-patching, attribution-patching, eap, eap-ig and
acdc."""


def method_name(method: pb.CircuitMethod.ValueType) -> str:
    """The name of a search method, such as eap-ig; empty if unspecified."""
    return next((name for name, number in METHODS.items() if number == method), "")


MOST_EDGES = 200_000
"""The most edges that a circuit lists. Above that, the weakest edges outside of the circuit are left out."""


class NamedParts(dict[str, T]):
    """Nodes or edges of a circuit by name."""

    def __repr__(self) -> str:
        first = ", ".join(list(self)[:_PARTS_SHOWN])
        return f"<{len(self)} by name: {first}{', ...' if len(self) > _PARTS_SHOWN else ''}>"


class CircuitContent(Displayable):
    """The nodes and edges of a graph, with the circuit's marked.

    Args:
        message: the contract's message. It is kept, not copied; do not change it.
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
        """A circuit from a mask over the graph's edges.

        Args:
            graph: the model's graph.
            in_circuit: mask of the circuit's edges (sender, receiver). The nodes at their ends, the input and the
                logits belong to the circuit too.
            model: the model.
            name: the circuit's name.
            description: what the circuit does.
            edge_scores: scores (sender, receiver); NaN for edges without one.
            node_scores: scores by node name.
            provenance: how the circuit was found.
            evaluation: how faithful it is.
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
        """The circuit's name."""
        return self.message.name

    @property
    def model(self) -> pb.CircuitModel:
        """The model that the circuit is part of."""
        return self.message.model

    @property
    def provenance(self) -> pb.CircuitProvenance:
        """How the circuit was found: method, metric, prompts, versions, time."""
        return self.message.provenance

    @property
    def evaluation(self) -> pb.CircuitEvaluation | None:
        """Faithfulness and other measures; None if the circuit was not evaluated."""
        return self.message.evaluation if self.message.HasField("evaluation") else None

    @cached_property
    def all_nodes(self) -> NamedParts[pb.CircuitNode]:
        """Every node of the graph by name, in the order in which they write."""
        return NamedParts((node.name, node) for node in self.message.nodes)

    @cached_property
    def all_edges(self) -> NamedParts[pb.CircuitEdge]:
        """Every listed edge by name, such as input->a0.h0<q>."""
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
        """The share of the graph's edges that are in the circuit."""
        return len(self.edges) / self.message.edge_count if self.message.edge_count else 0.0

    @cached_property
    def graph(self) -> ComponentGraph:
        """The graph that the circuit is part of.

        Raises:
            InvalidRequestError: the nodes are not a model's, as in circuits made of directions.
        """
        return ComponentGraph.from_nodes(self.all_nodes, self.model)

    @property
    def in_circuit(self) -> Mask:
        """Mask of the circuit's edges (sender, receiver)."""
        return self.graph.mask_of((edge.sender, edge.receiver) for edge in self.edges.values())

    @property
    def edge_scores(self) -> LabelledArray:
        """Edge scores over sender and receiver; NaN for edges without one."""
        graph = self.graph
        values = np.full((len(graph.senders), len(graph.receivers)), np.nan, np.float32)
        for edge in self.message.edges:
            if edge.HasField("score") and graph.has_edge(edge.sender, edge.receiver):
                values[graph.rows[edge.sender], graph.columns[edge.receiver]] = edge.score
        coords = {"sender": graph.senders, "receiver": graph.receivers}
        return LabelledArray("edge_score", values, ("sender", "receiver"), coords)

    @property
    def node_scores(self) -> dict[str, float]:
        """Node scores by name. If no node has one: the summed magnitudes of the scores of the edges that it sends."""
        found = {node.name: node.score for node in self.message.nodes if node.HasField("score")}
        if found:
            return found
        sums = dict.fromkeys(self.all_nodes, 0.0)
        for edge in self.message.edges:
            sums[edge.sender] = sums.get(edge.sender, 0.0) + abs(edge.score)
        return sums

    def readers(self, receiver: str) -> list[str]:
        """The nodes that a receiver belongs to: several heads if they share a key/value head."""
        return [receiver] if receiver in self.all_nodes else self.graph.readers(receiver)

    # Other circuits of the same graph.

    def strongest(
        self, *, size: float | None = None, count: int | None = None, threshold: float | None = None, prune: bool = True
    ) -> Self:
        """The circuit of the edges with the largest scores. It has no evaluation.

        Args:
            size: the share of the graph's edges to keep, above 0 and at most 1.
            count: the number of edges to keep.
            threshold: the least magnitude of a score.
            prune: removes edges that are on no path from input to logits.

        Raises:
            InvalidRequestError: not exactly one of size, count and threshold is given, or it is out of range.
        """
        extent, graph = Extent(size, count, threshold), self.graph
        chosen = extent.edges(graph, self.edge_scores.values, self.message.edge_count)
        return self.with_edges(graph.edge_pairs(graph.pruned(chosen) if prune else chosen))

    def with_edges(self, edges: Iterable[str | tuple[str, str]]) -> Self:
        """The circuit of the given edges of the same graph. It has no evaluation.

        Args:
            edges: names such as `input->a0.h0<q>`, or pairs of sender and receiver.

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
        """Name, model and size in one line."""
        model = f" of {self.model.model_id}" if self.model.model_id else ""
        share = f" ({100 * self.size:.3g} %)" if self.message.edge_count else ""
        return (
            f"{self.name or 'Circuit'}{model}: {len(self.nodes)} nodes, {len(self.edges)} of {self.message.edge_count} "
            f"edges{share}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """How the circuit was found and how well it does, by label, for tables and pages."""
        found: dict[str, Any] = {}
        provenance = self.provenance
        if self.message.model.weights_hash:
            found["weights"] = self.message.model.weights_hash
        if provenance.source:
            found["from"] = provenance.source
        if provenance.search.method:
            found["method"] = method_name(provenance.search.method)
        if provenance.dataset.pair_count:
            found["prompts"] = f"{provenance.dataset.pair_count} pairs" + (
                f" of {provenance.dataset.name}" * bool(provenance.dataset.name)
            )
        if (measured := self.evaluation) is not None:
            found["metric on clean prompts"] = measured.clean
            found["metric on corrupted prompts"] = measured.corrupted
            found["metric of the circuit"] = measured.circuit
            found["faithfulness"] = measured.faithfulness
            if measured.HasField("faithfulness_standard_error"):
                half_width = NORMAL_95 * measured.faithfulness_standard_error
                low, high = measured.faithfulness - half_width, measured.faithfulness + half_width
                found["95 % interval"] = f"{low:.3f} to {high:.3f}"
            for name in ("completeness", "minimality", "cpr", "cmd"):
                if measured.HasField(name):
                    found[name.upper() if len(name) == 3 else name] = getattr(measured, name)
            if measured.HasField("equivalence_p_value"):
                found["p of equivalence"] = measured.equivalence_p_value
            if measured.HasField("independence_p_value"):
                found["p of independence"] = measured.independence_p_value
            if measured.HasField("stability"):
                stability = measured.stability
                found["Jaccard of resamples"] = (
                    f"{stability.jaccard:.3f} ({stability.jaccard_low:.3f} to {stability.jaccard_high:.3f})"
                )
        if provenance.forward_passes:
            found["forward passes"] = provenance.forward_passes
        if provenance.elapsed_seconds:
            found["seconds"] = provenance.elapsed_seconds
        return found


def _ends(edge: str | tuple[str, str]) -> tuple[str, str]:
    if not isinstance(edge, str):
        return edge
    sender, arrow, receiver = edge.partition("->")
    if not arrow:
        raise InvalidRequestError(f"{edge!r} is no edge such as input->a0.h0<q>", field="edges")
    return sender, receiver
