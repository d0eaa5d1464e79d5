"""Graphviz: layers are ranks, from the input at the bottom to the logits at the top."""

from __future__ import annotations

import json

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.layout import edge_strengths, node_label, node_rows
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place

_SHAPES = {
    pb.CIRCUIT_NODE_KIND_HEAD: "ellipse",
    pb.CIRCUIT_NODE_KIND_MLP: "box",
    pb.CIRCUIT_NODE_KIND_DIRECTION: "diamond",
}


def write(circuit: CircuitContent) -> str:
    """The circuit as DOT."""
    widths = edge_strengths(circuit)
    lines = [f"digraph {json.dumps(circuit.name or 'circuit')} {{", "  rankdir=BT;", "  node [fontname=Helvetica];"]
    for row in node_rows(circuit):
        same = " ".join(f"{_quoted(name)};" for name in row)
        lines.append(f"  {{ rank=same; {same} }}")
        for name in row:
            node = circuit.all_nodes[name]
            shape = _SHAPES.get(node.kind, "plaintext")
            lines.append(f"  {_quoted(name)} [shape={shape}, label={_quoted(node_label(node))}];")
    for name, edge in circuit.edges.items():
        slot = "" if edge.receiver in circuit.all_nodes else Place.of(edge.receiver).slot
        attributes = f", label={_quoted(slot)}" if slot else ""
        attributes += f", tooltip={_quoted(f'{name}: {edge.score:.4g}')}" if edge.HasField("score") else ""
        for reader in circuit.readers(edge.receiver):
            if reader in circuit.nodes:
                width = 0.5 + 3 * widths.get(name, 0.0)
                lines.append(f"  {_quoted(edge.sender)} -> {_quoted(reader)} [penwidth={width:.2f}{attributes}];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
