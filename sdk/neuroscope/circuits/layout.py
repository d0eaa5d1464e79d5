"""Where the nodes of a circuit are drawn: rows from the input to the logits."""

from __future__ import annotations

from collections import defaultdict

from neuroscope.circuits.content import CircuitContent
from neuroscope.v1 import circuit_pb2 as pb


def node_rows(circuit: CircuitContent) -> list[list[str]]:
    """The circuit's nodes, those of a row beside each other: input, heads of layer 0, its MLP, ..., logits."""
    rows: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, node in circuit.nodes.items():
        rows[row_key(node)].append(name)
    return [rows[place] for place in sorted(rows)]


def row_key(node: pb.CircuitNode) -> tuple[int, int]:
    """The layer, and what comes first in it; the input is below all, the logits above."""
    match node.kind:
        case pb.CIRCUIT_NODE_KIND_INPUT:
            return -1, 0
        case pb.CIRCUIT_NODE_KIND_LOGITS:
            return 1 << 30, 0
        case pb.CIRCUIT_NODE_KIND_HEAD:
            return node.layer, 0
        case pb.CIRCUIT_NODE_KIND_MLP:
            return node.layer, 1
        case _:
            return node.layer, 2


def node_positions(circuit: CircuitContent) -> dict[str, tuple[float, float]]:
    """Of each node x and y, both from 0 to 1; y grows from the input to the logits."""
    rows = node_rows(circuit)
    found: dict[str, tuple[float, float]] = {}
    for row, names in enumerate(rows):
        y = row / max(len(rows) - 1, 1)
        # Rows of one node step aside in turn, so that edges between them do not run through those between.
        shift = 0.18 * (-1) ** row if len(names) == 1 and 0 < row < len(rows) - 1 else 0.0
        for index, name in enumerate(names):
            found[name] = (index + 0.5) / len(names) + shift, y
    return found


def edge_strengths(circuit: CircuitContent) -> dict[str, float]:
    """Of each edge of the circuit the magnitude of its score, of the strongest 1; 1 of all where none has a score."""
    most = max((abs(edge.score) for edge in circuit.edges.values()), default=0.0)
    return {name: abs(edge.score) / most if most else 1.0 for name, edge in circuit.edges.items()}


def node_label(node: pb.CircuitNode) -> str:
    """A node's name, and what it is for."""
    return f"{node.name}\n{node.label}" if node.label else node.name
