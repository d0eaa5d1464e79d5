"""Layout of circuits in pictures: rows of nodes from the input to the logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from neuroscope.circuits.content import CircuitContent
from neuroscope.v1 import circuit_pb2 as pb

_ROUNDS = 12


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


def node_positions(
    rows: Sequence[Sequence[str]], edges: Iterable[tuple[str, str, float]], gap: float
) -> dict[str, float]:
    """The horizontal position of each node, from 0 to 1, near the nodes that it shares edges with.

    Nodes move to the weighted mean position of their neighbours (Sugiyama et al. 1981), then apart until there is a
    gap between the nodes of a row.

    Args:
        rows: the nodes by row.
        edges: sender, reader and weight.
        gap: the least distance in a row.
    """
    neighbours: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for sender, reader, weight in edges:
        neighbours[sender].append((reader, weight))
        neighbours[reader].append((sender, weight))
    found = {name: (index + 0.5) / len(row) for row in rows for index, name in enumerate(row)}
    for _ in range(_ROUNDS):
        for row in rows:
            wanted: dict[str, float] = {}
            for name in row:
                weighted = [(found[other], weight) for other, weight in neighbours[name] if other in found]
                total = sum(weight for _, weight in weighted)
                wanted[name] = sum(x * weight for x, weight in weighted) / total if total else found[name]
            found |= _spread(wanted, gap)
    return found


def _spread(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Positions between 0 and 1 near the wanted ones, in their order, at least the gap apart where there is room."""
    names = sorted(wanted, key=lambda name: wanted[name])
    gap = min(gap, 1 / max(len(names), 1))
    left = [0.0] * len(names)
    for index, name in enumerate(names):
        least = left[index - 1] + gap if index else gap / 2
        left[index] = max(wanted[name], least)
    most = 1 - gap / 2
    for index in reversed(range(len(names))):
        left[index] = min(left[index], most)
        most = left[index] - gap
    return dict(zip(names, left, strict=True))


def edge_strengths(circuit: CircuitContent) -> dict[str, float]:
    """The magnitude of each edge's score relative to the strongest edge; 1 for all edges if none has a score."""
    most = max((abs(edge.score) for edge in circuit.edges.values()), default=0.0)
    return {name: abs(edge.score) / most if most else 1.0 for name, edge in circuit.edges.items()}


def node_label(node: pb.CircuitNode) -> str:
    """A node's name, with its label on a second line."""
    return f"{node.name}\n{node.label}" if node.label else node.name
