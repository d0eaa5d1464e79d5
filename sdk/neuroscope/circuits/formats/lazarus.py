"""The layout of chuk-lazarus: lists of nodes and of edges, each with a type, and metadata.

Node types are layer, attention, mlp, expert, direction, input and output. Edge types are residual, attention_out,
mlp_out, causal, inhibitory and steering, by the sender. Edge scores are weights, node scores importances. Fields
without a counterpart, such as the input of a head that an edge leads to, go to the metadata, from which our files are
read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from neuroscope.circuits.content import CircuitContent
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place

_NODES = {
    pb.CIRCUIT_NODE_KIND_INPUT: "input",
    pb.CIRCUIT_NODE_KIND_HEAD: "attention",
    pb.CIRCUIT_NODE_KIND_MLP: "mlp",
    pb.CIRCUIT_NODE_KIND_LOGITS: "output",
    pb.CIRCUIT_NODE_KIND_DIRECTION: "direction",
}
_EDGES = {
    pb.CIRCUIT_NODE_KIND_INPUT: "residual",
    pb.CIRCUIT_NODE_KIND_HEAD: "attention_out",
    pb.CIRCUIT_NODE_KIND_MLP: "mlp_out",
    pb.CIRCUIT_NODE_KIND_DIRECTION: "steering",
}
_KINDS = {name: kind for kind, name in _NODES.items()}
_OF_GRAPH = ("model", "provenance", "evaluation", "edge_count")


def to_json(circuit: CircuitContent) -> dict[str, Any]:
    """The circuit's nodes and edges as a JSON object."""
    whole = json_format.MessageToDict(circuit.message, preserving_proto_field_name=True)
    readers = circuit.readers
    return {
        "name": circuit.name,
        "description": circuit.message.description,
        "metadata": {name: whole[name] for name in _OF_GRAPH if name in whole},
        "nodes": [
            {
                "id": name,
                "label": node.label or name,
                "type": _NODES.get(node.kind, "layer"),
                "layer": node.layer if node.HasField("layer") else None,
                "importance": circuit.node_scores.get(name, 0.0),
                "metadata": dict(node.metadata),
            }
            for name, node in circuit.nodes.items()
        ],
        "edges": [
            {
                "source": edge.sender,
                "target": reader,
                "type": _EDGES.get(circuit.all_nodes[edge.sender].kind, "causal"),
                "weight": edge.score,
                "label": "" if edge.receiver in circuit.all_nodes else Place.of(edge.receiver).slot,
                "metadata": {"receiver": edge.receiver},
            }
            for edge in circuit.edges.values()
            for reader in readers(edge.receiver)
            if reader in circuit.nodes
        ],
    }


def from_json(value: Mapping[str, Any]) -> pb.Circuit:
    """Reads the JSON object; every node and edge belongs to the circuit.

    Raises:
        InvalidRequestError: a field is missing or malformed.
    """
    try:
        metadata: dict[str, Any] = value.get("metadata") or {}
        kept = {name: metadata[name] for name in _OF_GRAPH if name in metadata}
        made = json_format.ParseDict(kept, pb.Circuit())
        made.name, made.description = value.get("name") or "", value.get("description") or ""
        made.provenance.source = "lazarus"
        for node in value["nodes"]:
            kind = _KINDS.get(node["type"], pb.CIRCUIT_NODE_KIND_UNSPECIFIED)
            name, layer = str(node["id"]), node.get("layer")
            extra: dict[str, Any] = node.get("metadata") or {}
            made.nodes.add(
                name=name,
                kind=kind,
                layer=layer,
                head=Place.of(name).head if kind == pb.CIRCUIT_NODE_KIND_HEAD else None,
                score=node.get("importance"),
                in_circuit=True,
                label="" if node.get("label") in (None, name) else str(node["label"]),
                metadata={str(key): str(entry) for key, entry in extra.items()},
            )
        seen: set[tuple[str, str]] = set()
        for edge in value["edges"]:
            extra = edge.get("metadata") or {}
            receiver = extra.get("receiver", str(edge["target"]))
            if (edge["source"], receiver) not in seen:
                seen.add((edge["source"], receiver))
                made.edges.add(sender=edge["source"], receiver=receiver, score=edge.get("weight"), in_circuit=True)
        made.edge_count = made.edge_count or len(made.edges)
    except (KeyError, TypeError, ValueError, AttributeError, json_format.ParseError) as error:
        raise InvalidRequestError(f"this is no circuit of chuk-lazarus: {error!r}", field="circuit") from None
    return made
