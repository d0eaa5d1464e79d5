"""Circuits as graphs of networkx, and back."""

from __future__ import annotations

import importlib
from typing import Any

from google.protobuf import json_format

from neuroscope.circuits.content import CircuitContent
from neuroscope.errors import InvalidRequestError


def to_networkx(circuit: CircuitContent, *, whole: bool) -> Any:
    """See `Circuit.to_networkx`."""
    try:
        networkx: Any = importlib.import_module("networkx")
    except ImportError:
        raise InvalidRequestError("to_networkx needs networkx: pip install networkx", field="networkx") from None
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
