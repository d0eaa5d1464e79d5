"""The layout of the MIB benchmark's circuit track (Mueller et al. 2025), which EAP-IG's Graph.to_json writes.

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"a0.h0": {"in_graph": true, "score": 0.1}},
     "edges": {"input->a0.h0<q>": {"score": 0.2, "in_graph": true}}}

Its graph has separate keys and values for each head. If heads share them, an edge leads to each of these heads with the
same score, and `cfg` has `n_key_value_heads`, from which our files are read back; other tools ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.graph import ComponentGraph
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import LOGITS, Place

_KV = "n_key_value_heads"


def to_json(circuit: CircuitContent) -> dict[str, Any]:
    """The JSON object with every edge of the graph; edges without a score have 0."""
    model, graph = circuit.model, circuit.graph
    cfg: dict[str, Any] = {
        "n_layers": model.layer_count,
        "n_heads": model.head_count,
        "parallel_attn_mlp": model.is_parallel,
        "d_model": model.d_model,
    }
    if graph.group_size > 1:
        cfg[_KV] = model.key_value_head_count
    nodes: dict[str, Any] = {}
    for name, node in circuit.all_nodes.items():
        nodes[name] = {"in_graph": node.in_circuit or name == LOGITS}
        if node.HasField("score"):
            nodes[name]["score"] = node.score
    edges: dict[str, Any] = {}
    for sender, receiver in graph.edge_pairs(graph.mask):
        edge = circuit.all_edges.get(f"{sender}->{receiver}", pb.CircuitEdge())
        slot = Place.of(receiver).slot
        for reader in graph.readers(receiver):
            name = f"{sender}->{reader}" + (f"<{slot}>" if slot else "")
            edges[name] = {"score": edge.score, "in_graph": edge.in_circuit}
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def from_json(value: Mapping[str, Any]) -> pb.Circuit:
    """Reads the JSON object.

    Raises:
        InvalidRequestError: a field is missing, or a name is not in the graph.
    """
    try:
        cfg, nodes, edges = value["cfg"], value["nodes"], value["edges"]
        model = pb.CircuitModel(
            layer_count=cfg["n_layers"],
            head_count=cfg["n_heads"],
            key_value_head_count=cfg.get(_KV, cfg["n_heads"]),
            d_model=cfg.get("d_model", 0),
            is_parallel=cfg.get("parallel_attn_mlp", False),
        )
        graph = ComponentGraph.from_model(model)
        made = pb.Circuit(edge_count=graph.edge_count, model=model)
        made.provenance.source = "mib"
        for name in graph.nodes:
            place, fields = Place.of(name), nodes.get(name, {})
            fields = {"in_graph": fields} if isinstance(fields, bool) else fields
            made.nodes.add(
                name=name,
                kind=place.kind,
                layer=place.layer,
                head=place.head,
                score=fields.get("score"),
                in_circuit=bool(fields.get("in_graph", False)) or name == LOGITS,
            )
        seen: set[tuple[str, str]] = set()
        for name, fields in edges.items():
            sender, _, receiver = name.partition("->")
            receiver = _shared(receiver, graph)
            if not graph.has_edge(sender, receiver):
                raise InvalidRequestError(f"the graph has no edge {name!r}", field="edges")
            if (sender, receiver) not in seen:
                seen.add((sender, receiver))
                made.edges.add(
                    sender=sender, receiver=receiver, score=float(fields["score"]), in_circuit=bool(fields["in_graph"])
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequestError(f"this is no circuit of MIB's layout: {error!r}", field="circuit") from None
    return made


def _shared(receiver: str, graph: ComponentGraph) -> str:
    place = Place.of(receiver, "edges")
    if place.slot in ("k", "v") and place.head is not None:
        return str(Place(place.kind, place.layer, place.head // graph.group_size, place.slot))
    return receiver
