"""The graph of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class EdgeReceiver(BaseModel):
    """A node that reads the residual stream."""

    name: str
    """`a9.h6<q>`, `<k>` or `<v>` of a head, `m9` of an MLP, `logits`."""
    sender_count: int
    """The first `sender_count` senders have an edge to it."""


class EdgeGraph(BaseModel):
    """The graph of a model: senders write the residual stream, receivers read it."""

    object: Literal["edge_graph"] = "edge_graph"
    model: str
    senders: list[str]
    """In the order of writing: `input`, `a0.h3`, `m0`."""
    receivers: list[EdgeReceiver]
    """In the order of reading."""
    edge_count: int
