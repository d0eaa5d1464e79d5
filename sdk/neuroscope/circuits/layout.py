"""Layout of circuits in pictures: rows of nodes from the input to the logits."""

from __future__ import annotations

from collections import defaultdict

from neuroscope.circuits.content import CircuitContent
from neuroscope.v1 import circuit_pb2 as pb


def node_rows(circuit: CircuitContent) -> list[list[str]]:
    """The circuit's nodes by row, bottom up: input, heads of layer 0, MLP of layer 0, ..., logits."""
    rows: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, node in circuit.nodes.items():
        rows[row_key(node)].append(name)
    return [rows[place] for place in sorted(rows)]


def row_key(node: pb.CircuitNode) -> tuple[int, int]:
    """Sorts nodes into rows: by layer, heads before the MLP; the input first, the logits last."""
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
    """x and y of each node, from 0 to 1; y grows from the input to the logits."""
    rows = node_rows(circuit)
    found: dict[str, tuple[float, float]] = {}
    for row, names in enumerate(rows):
        y = row / max(len(rows) - 1, 1)
        # Rows of a single node alternate left and right, so that edges do not run through the nodes between.
        shift = 0.18 * (-1) ** row if len(names) == 1 and 0 < row < len(rows) - 1 else 0.0
        for index, name in enumerate(names):
            found[name] = (index + 0.5) / len(names) + shift, y
    return found


def edge_strengths(circuit: CircuitContent) -> dict[str, float]:
    """The magnitude of each edge's score relative to the strongest edge; 1 for all edges if none has a score."""
    most = max((abs(edge.score) for edge in circuit.edges.values()), default=0.0)
    return {name: abs(edge.score) / most if most else 1.0 for name, edge in circuit.edges.items()}


def node_label(node: pb.CircuitNode) -> str:
    """A node's name, with its label on a second line."""
    return f"{node.name}\n{node.label}" if node.label else node.name
