"""Interactive, self-contained HTML page of a circuit: the graph as SVG, with the strongest edges and details."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from neuroscope.circuits.layout import edge_strengths, node_label, node_positions
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.viz import tables
from neuroscope.vocabulary.component_names import Place
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
    where, strong, scores = node_positions(circuit), edge_strengths(circuit), circuit.node_scores
    edges: list[dict[str, Any]] = [
        {
            "name": name,
            "from": edge.sender,
            "to": reader,
            "slot": "" if edge.receiver in circuit.all_nodes else Place.of(edge.receiver).slot,
            "score": edge.score if edge.HasField("score") else None,
            "strength": strong[name],
            "removal": edge.removal_effect if edge.HasField("removal_effect") else None,
        }
        for name, edge in circuit.edges.items()
        for reader in circuit.readers(edge.receiver)
        if reader in where
    ]
    nodes: list[dict[str, Any]] = [
        {
            "name": name,
            "label": node_label(node),
            "kind": _KINDS.get(node.kind, "other"),
            "score": scores.get(name),
            "x": where[name][0],
            "y": where[name][1],
            "metadata": dict(node.metadata),
        }
        for name, node in circuit.nodes.items()
    ]
    ranked = sorted(circuit.edges, key=lambda name: strong[name])
    measured = circuit.evaluation
    return {
        "title": circuit.summary,
        "nodes": nodes,
        "edges": sorted(edges, key=lambda edge: edge["strength"]),
        "ranks": {name: rank for rank, name in enumerate(ranked)},
        "facts": circuit.facts,
        "provenance": _flat(plain(circuit.provenance)),
        "curve": [] if measured is None else [[point.size, point.faithfulness] for point in measured.curve],
    }


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
