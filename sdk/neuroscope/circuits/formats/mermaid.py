"""Mermaid flowcharts, which GitHub renders in Markdown."""

from __future__ import annotations

from html import escape

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.layout import edge_strengths, node_label, node_rows
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place

_BRACKETS = {
    pb.CIRCUIT_NODE_KIND_HEAD: ('(["', '"])'),
    pb.CIRCUIT_NODE_KIND_MLP: ('["', '"]'),
    pb.CIRCUIT_NODE_KIND_DIRECTION: ('{{"', '"}}'),
}
_STRONG = 0.5
"""Edges with at least this share of the strongest score are drawn thick."""


def write(circuit: CircuitContent) -> str:
    """The circuit as a flowchart."""
    widths = edge_strengths(circuit)
    lines = ["flowchart BT"]
    for row in node_rows(circuit):
        for name in row:
            node = circuit.all_nodes[name]
            left, right = _BRACKETS.get(node.kind, ('("', '")'))
            lines.append(f"  {_id(name)}{left}{_escaped(node_label(node))}{right}")
    for name, edge in circuit.edges.items():
        slot = "" if edge.receiver in circuit.all_nodes else Place.of(edge.receiver).slot
        arrow = "==>" if widths.get(name, 0.0) >= _STRONG else "-->"
        lines += [
            f"  {_id(edge.sender)} {arrow}{f'|{slot}|' if slot else ''} {_id(reader)}"
            for reader in circuit.readers(edge.receiver)
            if reader in circuit.nodes
        ]
    return "\n".join([*lines, ""])


def _id(name: str) -> str:
    return name.replace(".", "_")


def _escaped(text: str) -> str:
    return escape(text).replace("\n", "<br/>")
