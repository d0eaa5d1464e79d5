"""The graph of a model as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class EdgeReceiver(BaseModel):
    """What reads the residual stream."""

    name: str
    """a9.h6<q>, <k> or <v> of a head, m9 of an MLP, logits."""
    sender_count: int
    """How many of the senders, from the first on, write before it: each of them has an edge to it."""


class EdgeGraph(BaseModel):
    """What writes the residual stream, what reads it, and the edges between them."""

    object: Literal["edge_graph"] = "edge_graph"
    model: str
    senders: list[str]
    """In the order in which they write: input, a0.h3, m0."""
    receivers: list[EdgeReceiver]
    """In the order in which they read."""
    edge_count: int
