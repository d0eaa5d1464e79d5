"""Interactive, self-contained HTML page of a circuit: the graph as SVG, with the strongest edges and details."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.viz import tables
from neuroscope.vocabulary.message_text import plain

if TYPE_CHECKING:
    from neuroscope.circuits.content import CircuitContent

_KINDS = {
    pb.CIRCUIT_NODE_KIND_INPUT: "input",
    pb.CIRCUIT_NODE_KIND_HEAD: "head",
    pb.CIRCUIT_NODE_KIND_MLP: "mlp",
    pb.CIRCUIT_NODE_KIND_LOGITS: "logits",
    pb.CIRCUIT_NODE_KIND_DIRECTION: "direction",
}

SHOWN_EDGES = 60
"""Edges that a page shows at first."""


def write(circuit: CircuitContent) -> str:
    """The HTML page."""
    return _document(circuit.name or "Circuit", _fragment(circuit))


def mimebundle(circuit: CircuitContent, **options: Any) -> dict[str, str]:
    """For notebooks: the page as HTML, the table as text."""
    return {"text/plain": tables.text(circuit), "text/html": _fragment(circuit)}


def _fragment(circuit: CircuitContent) -> str:
    """The page without the HTML head."""
    data = json.dumps(_data(circuit), ensure_ascii=False).replace("</", "<\\/")
    folder = files("neuroscope.viz")
    style, script = ((folder / f"circuit_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        f"<div class='ns-circuit'><style>{style}</style><script type='application/json'>{data}</script>"
        f"<div class='ns-view'></div><script>{script}</script></div>"
    )


def _data(circuit: CircuitContent) -> dict[str, Any]:
    """What the page shows. Edges are columns, strongest first: a graph has up to 200,000 listed ones."""
    scores, names = circuit.node_scores, list(circuit.all_nodes)
    number = {name: index for index, name in enumerate(names)}
    edges = sorted(circuit.message.edges, key=lambda edge: -abs(edge.score))
    kept = [edge for edge in edges if edge.in_circuit]
    nodes: list[dict[str, Any]] = [
        {
            "name": name,
            "label": node.label,
            "kind": _KINDS.get(node.kind, "other"),
            "layer": node.layer if node.HasField("layer") else None,
            "head": node.head if node.HasField("head") else None,
            "score": scores.get(name),
            "kept": node.in_circuit,
            "metadata": dict(node.metadata),
        }
        for name, node in circuit.all_nodes.items()
    ]
    measured = circuit.evaluation
    return {
        "title": circuit.summary,
        "nodes": nodes,
        "edges": {
            "from": [number[edge.sender] for edge in edges],
            "to": [_readers(circuit, edge, number) for edge in edges],
            "slot": "".join(_slot(edge.receiver) for edge in edges),
            "kept": "".join("1" if edge.in_circuit else "0" for edge in edges),
            "score": [_rounded(edge, "score") for edge in edges],
            "removal": [_rounded(edge, "removal_effect") for edge in kept],
            "inclusion": [_rounded(edge, "inclusion") for edge in kept],
        },
        "group_size": max(circuit.model.head_count // max(circuit.model.key_value_head_count, 1), 1),
        "shown": SHOWN_EDGES,
        "facts": circuit.facts,
        "provenance": _flat(plain(circuit.provenance)),
        "curve": [] if measured is None else [[point.size, point.faithfulness] for point in measured.curve],
    }


def _readers(circuit: CircuitContent, edge: pb.CircuitEdge, number: dict[str, int]) -> int | list[int]:
    """The numbers of the nodes that an edge leads to: one, or the heads that share keys or values."""
    nodes = circuit.nodes if edge.in_circuit else number
    found = [number[reader] for reader in circuit.readers(edge.receiver) if reader in nodes]
    return found[0] if len(found) == 1 else found


def _slot(receiver: str) -> str:
    """q, k or v of a head's receiver; - for others."""
    return receiver[-2] if receiver.endswith(">") else "-"


def _rounded(edge: pb.CircuitEdge, field: str) -> float | None:
    return float(f"{getattr(edge, field):.4g}") if edge.HasField(field) else None  # pyright: ignore[reportArgumentType]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested fields by path; lists are replaced by their length."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, each in cast("dict[str, Any]", value).items():
            found |= _flat(each, f"{path}.{key}" if path else key)
        return found
    return {path: f"{len(cast('list[Any]', value))} entries" if isinstance(value, list) else value}


def _document(title: str, body: str) -> str:
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{escape(title)}</title></head>"
        f"<body style='margin:1rem;background:white'>{body}</body></html>\n"
    )
