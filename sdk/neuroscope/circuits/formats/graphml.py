"""GraphML through networkx: all listed edges with attributes; fields of the circuit itself are one graph attribute."""

from __future__ import annotations

import io
import json
from typing import Any

from google.protobuf import json_format

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.networkx_graph import to_networkx
from neuroscope.errors import InvalidRequestError
from neuroscope.optional_import import optional_import
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place

_WHOLE, _INDEX = "neuroscope", "index"


def write(circuit: CircuitContent) -> str:
    """The circuit as GraphML."""
    graph = to_networkx(circuit, whole=True)
    for _, attributes in [*graph.nodes(data=True), *((None, each[2]) for each in graph.edges(data=True))]:
        for name, value in list(attributes.items()):
            if isinstance(value, dict):
                attributes[name] = json.dumps(value)
    order = {name: index for index, name in enumerate(circuit.all_edges)}
    for sender, reader, attributes in graph.edges(data=True):
        attributes[_INDEX] = order[f"{sender}->{attributes.get('receiver', reader)}"]
    whole = pb.Circuit()
    whole.CopyFrom(circuit.message)
    del whole.nodes[:], whole.edges[:]
    graph.graph[_WHOLE] = json.dumps(json_format.MessageToDict(whole, preserving_proto_field_name=True))
    written = io.BytesIO()
    try:
        optional_import("networkx", "GraphML").write_graphml(graph, written)
    except ValueError as error:  # control characters, if networkx writes with lxml
        raise InvalidRequestError(f"GraphML cannot carry it: {error}", field="circuit") from None
    return written.getvalue().decode()


def read(text: str) -> pb.Circuit:
    """Reads GraphML. In files of other tools nodes must have our names, and every edge belongs to the circuit.

    Raises:
        InvalidRequestError: the text is not GraphML, or a node has another name.
    """
    networkx = optional_import("networkx", "GraphML")
    try:
        graph = networkx.parse_graphml(text, force_multigraph=True)
        made = json_format.ParseDict(json.loads(graph.graph.get(_WHOLE, "{}")), pb.Circuit())
        for name, attributes in graph.nodes(data=True):
            node = _message(attributes, pb.CircuitNode(in_circuit=True))
            node.name = name
            if not node.kind:
                place = Place.of(name, "nodes")
                node.MergeFrom(pb.CircuitNode(kind=place.kind, layer=place.layer, head=place.head))
            made.nodes.append(node)
        seen: set[tuple[str, str]] = set()
        edges = sorted(graph.edges(data=True), key=lambda edge: edge[2].get(_INDEX, 0))
        for sender, reader, attributes in edges:
            edge = _message(attributes, pb.CircuitEdge(in_circuit=True))
            edge.sender, edge.receiver = sender, edge.receiver or reader
            if (edge.sender, edge.receiver) not in seen:
                seen.add((edge.sender, edge.receiver))
                made.edges.append(edge)
    except InvalidRequestError:
        raise
    except Exception as error:  # XML parsers and networkx raise many types
        raise InvalidRequestError(f"this is no GraphML of a circuit: {error}", field="circuit") from None
    if not made.HasField("provenance"):
        made.provenance.source = "graphml"
    if not made.HasField("model"):
        made.model.CopyFrom(_model(made))
    made.edge_count = made.edge_count or len(made.edges)
    return made


def _message(attributes: dict[str, Any], message: Any) -> Any:
    known = set(message.DESCRIPTOR.fields_by_name)
    fields = {name: value for name, value in attributes.items() if name in known}
    if isinstance(fields.get("metadata"), str):
        fields["metadata"] = json.loads(fields["metadata"])
    return json_format.ParseDict(fields, message)


def _model(circuit: pb.Circuit) -> pb.CircuitModel:
    heads = max((node.head + 1 for node in circuit.nodes if node.HasField("head")), default=0)
    layers = max((node.layer + 1 for node in circuit.nodes if node.HasField("layer")), default=0)
    return pb.CircuitModel(layer_count=layers, head_count=heads, key_value_head_count=heads)
