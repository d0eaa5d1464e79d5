"""File formats of circuits.

json       protobuf's JSON of the contract's message; lossless; can be read back
mib        the layout of the MIB benchmark's circuit track, as written by EAP-IG's Graph.to_json; can be read back
lazarus    the layout of chuk-lazarus; can be read back
graphml    for Gephi, yEd, networkx; lossless; can be read back
dot        for Graphviz
mermaid    for Markdown pages
html       an interactive, self-contained page
png, svg, pdf    a picture
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from google.protobuf import json_format

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.formats import dot, graphml, lazarus, mermaid, mib
from neuroscope.circuits.graph import ComponentGraph
from neuroscope.display import show
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import circuit_pb2 as pb

OWN = "neuroscope.v1.Circuit"
"""The value of `format` in our JSON."""
TEXTS: Mapping[str, Callable[[CircuitContent], str]] = {
    "json": lambda circuit: _dumped(to_object(circuit)),
    "mib": lambda circuit: _dumped(mib.to_json(circuit)),
    "lazarus": lambda circuit: _dumped(lazarus.to_json(circuit)),
    "graphml": graphml.write,
    "dot": dot.write,
    "mermaid": mermaid.write,
    "html": lambda circuit: show(circuit, "page"),
}
"""Writers of the text formats."""
PICTURES = ("png", "svg", "pdf")
"""Formats drawn by matplotlib."""
FORMATS = (*TEXTS, *PICTURES)
ENDINGS = {".gv": "dot", ".mmd": "mermaid", ".md": "mermaid", ".htm": "html"} | {f".{name}": name for name in FORMATS}
_READABLE = "json (ours, mib, lazarus), graphml"


def format_of(path: str | Path, format: str = "") -> str:
    """The format of a file: `format`, or by default that of the suffix.

    Raises:
        InvalidRequestError: the format or the suffix is unknown.
    """
    if format:
        return check_format(format)
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise InvalidRequestError(
            f"{path} has none of the endings {', '.join(ENDINGS)}; say which format it is to be", field="format"
        )
    return ENDINGS[ending]


def check_format(format: str) -> str:
    """Returns the name of a format if it is valid.

    Raises:
        InvalidRequestError: the format is unknown.
    """
    if format not in FORMATS:
        close = nearest(format, FORMATS)
        raise InvalidRequestError(
            f"there is no format {format!r}; nearest: {', '.join(close)}", field="format", valid=close
        )
    return format


def to_object(circuit: CircuitContent) -> dict[str, Any]:
    """Our JSON object: protobuf's JSON of the contract's message, with the contract's field names."""
    return {"format": OWN, **json_format.MessageToDict(circuit.message, preserving_proto_field_name=True)}


def read(path: str | Path) -> pb.Circuit:
    """Reads a file in any of the readable formats; the format is detected.

    Raises:
        InvalidRequestError: the file cannot be read, or holds no circuit.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}", field="path") from None
    try:
        return parse(text)
    except InvalidRequestError as error:
        error.message = f"{path}: {error.message}"
        raise


def parse(text: str) -> pb.Circuit:
    """Reads text in any of the readable formats."""
    if text.lstrip().startswith("<"):
        return validated(graphml.read(text))
    try:
        value = json.loads(text)
    except ValueError:
        raise InvalidRequestError(f"this is no circuit; readable are {_READABLE}", field="circuit") from None
    return from_object(value)


def from_object(value: Any) -> pb.Circuit:
    """Reads a JSON object in any of the JSON layouts."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if fields.get("format") == OWN:
            return validated(_own(fields))
        if "cfg" in fields:
            return validated(mib.from_json(fields))
        if isinstance(fields.get("nodes"), list):
            return validated(lazarus.from_json(fields))
    raise InvalidRequestError(
        f"this is no circuit: an object with format {OWN!r}, with cfg, nodes and edges (MIB), or with lists of nodes "
        "and edges (chuk-lazarus)",
        field="circuit",
    )


def validated(circuit: pb.Circuit) -> pb.Circuit:
    """Returns a circuit if names are unique, edges connect its nodes and scores are finite.

    Raises:
        InvalidRequestError: they do not; the message names the offending field.
    """
    nodes = {node.name: node for node in circuit.nodes}
    if len(nodes) != len(circuit.nodes):
        raise InvalidRequestError("two nodes of the circuit have the same name", field="circuit.nodes")
    parts = [("nodes", index, part) for index, part in enumerate(circuit.nodes)]
    parts += [("edges", index, part) for index, part in enumerate(circuit.edges)]
    for name, index, part in parts:
        if not math.isfinite(part.score):
            raise InvalidRequestError(f"a score is a number, not {part.score}", field=f"circuit.{name}[{index}].score")
    graph: ComponentGraph | None = None
    for index, edge in enumerate(circuit.edges):
        if edge.sender in nodes and edge.receiver in nodes:
            continue
        graph = graph or ComponentGraph.from_nodes(nodes, circuit.model)
        if edge.sender not in nodes or not graph.has_edge(edge.sender, edge.receiver):
            raise InvalidRequestError(
                f"{edge.sender}->{edge.receiver} is no edge between the circuit's nodes",
                field=f"circuit.edges[{index}]",
            )
    return circuit


def _own(value: Mapping[str, Any]) -> pb.Circuit:
    fields = {name: entry for name, entry in value.items() if name != "format"}
    try:
        return json_format.ParseDict(fields, pb.Circuit())
    except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequestError(f"this is no circuit: {error}", field="circuit") from None


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
