"""Circuits as networkx graphs."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from neuroscope.circuits.content import CircuitContent
from neuroscope.optional_import import optional_import


def to_networkx(circuit: CircuitContent, *, whole: bool) -> Any:
    """See `Circuit.to_networkx`."""
    networkx = optional_import("networkx", "to_networkx")
    made: Any = networkx.MultiDiGraph(name=circuit.name)
    for name, node in (circuit.all_nodes if whole else circuit.nodes).items():
        made.add_node(name, **_fields(node))
    for edge in (circuit.all_edges if whole else circuit.edges).values():
        for reader in circuit.readers(edge.receiver):
            if reader in made:
                made.add_edge(edge.sender, reader, key=_slot(edge.receiver), **_fields(edge))
    return made


def _fields(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _slot(receiver: str) -> str:
    return receiver[-2] if receiver.endswith(">") else ""
