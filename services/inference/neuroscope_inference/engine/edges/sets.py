"""Which edges of the graph the cells of a request change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.component_names import receiver_name, sender_name
from neuroscope.vocabulary.sites import Point, resolve
from neuroscope_inference.engine.attributions.graph import EdgeGraph

Mask = NDArray[np.bool_]
"""Edges of a graph (senders, receivers)."""
Node = tuple[Point, int | None]


class EdgeSets:
    """The changed edges of each cell.

    Args:
        graph: of the model.
        message: of the request.
        path: where it stands there.

    Raises (from the constructor):
        UnknownSiteError: a component is none.
        InvalidRequestError: a node is none of the graph, an edge is out of range or leads nowhere, or no set is named.
    """

    def __init__(self, graph: EdgeGraph, message: pb.EdgeGrid, path: str) -> None:
        self._graph, self._path = graph, path
        self._rows = _node_indices(graph, message.senders, graph.senders, f"{path}.senders")
        self._columns = _node_indices(graph, message.receivers, graph.receivers, f"{path}.receivers")
        counts = np.array([receiver.sender_count for receiver in graph.receivers])
        self._exists: Mask = self._rows[:, None] < counts[self._columns][None]
        self._cells: Sequence[pb.EdgeCell] = ()
        self._each: NDArray[np.intp] | None = None
        """Where every edge is a cell: the edges that there are, flat."""
        match message.WhichOneof("changed"):
            case "each":
                self._each = np.flatnonzero(self._exists)
                if not self._each.size:
                    raise InvalidRequestError("no sender reaches a receiver", field=f"{path}.senders")
            case "cells":
                self._cells = message.cells.cells
                if not self._cells:
                    raise InvalidRequestError("there is no set of edges", field=f"{path}.cells.cells")
            case _:
                raise InvalidRequestError("the changed edges are missing: each or cells", field=path)

    @property
    def count(self) -> int:
        """How many cells."""
        return len(self._cells) if self._each is None else len(self._each)

    def axis(self) -> pb.GridAxis:
        """The axis of the cells, with their names."""
        if self._each is None:
            labels = [cell.name or f"cell {number}" for number, cell in enumerate(self._cells)]
            return pb.GridAxis(name="cell", indices=range(self.count), labels=labels)
        labels = ["->".join(self._names(edge)) for edge in self._each]
        return pb.GridAxis(name="edge", indices=range(self.count), labels=labels)

    def changed(self, number: int) -> Mask:
        """The changed edges of a cell, of the whole graph.

        Raises:
            InvalidRequestError: an edge is out of range, or the receiver reads before the sender writes.
        """
        if self._each is None:
            chosen = self._cell_mask(self._cells[number], f"{self._path}.cells.cells[{number}]")
        else:
            chosen = np.zeros(self._exists.size, bool)
            chosen[self._each[number]] = True
        found = np.zeros((len(self._graph.senders), len(self._graph.receivers)), bool)
        found[self._rows[:, None], self._columns[None]] = chosen.reshape(self._exists.shape)
        return found

    def _cell_mask(self, cell: pb.EdgeCell, path: str) -> Mask:
        """The edges of a cell, flat along the request's own senders and receivers."""
        count = self._exists.size
        if cell.edges and cell.bitmap:
            raise InvalidRequestError("edges are named one by one or as bits, not both", field=f"{path}.bitmap")
        field = f"{path}.bitmap" if cell.bitmap else f"{path}.edges"
        if cell.bitmap:
            if len(cell.bitmap) != (count + 7) // 8:
                raise InvalidRequestError(
                    f"{len(self._rows)} senders and {len(self._columns)} receivers take {(count + 7) // 8} bytes, not "
                    f"{len(cell.bitmap)}",
                    field=field,
                )
            bits = np.unpackbits(np.frombuffer(cell.bitmap, np.uint8), bitorder="little").view(bool)
            if bits[count:].any():
                raise InvalidRequestError("bits behind the last edge are set", field=field)
            chosen = bits[:count]
        else:
            numbers = np.array(cell.edges, np.int64)
            if (numbers >= count).any():
                raise InvalidRequestError(
                    f"edge {numbers.max()} is out of range: {len(self._rows)} senders and {len(self._columns)} "
                    f"receivers make {count}",
                    field=field,
                )
            chosen = np.zeros(count, bool)
            chosen[numbers] = True
        lost = np.flatnonzero(chosen & ~self._exists.reshape(-1))
        if lost.size:
            sender, receiver = self._names(lost[0])
            raise InvalidRequestError(
                f"no edge leads from {sender} to {receiver}, which reads before {sender} writes (edge {lost[0]})",
                field=field,
            )
        return chosen

    def _names(self, edge: np.intp) -> tuple[str, str]:
        row, column = divmod(int(edge), len(self._columns))
        sender, receiver = self._graph.senders[self._rows[row]], self._graph.receivers[self._columns[column]]
        return sender_name(sender), receiver_name(receiver)


def _node_indices(
    graph: EdgeGraph,
    messages: Sequence[pb.EdgeSender] | Sequence[pb.EdgeReceiver],
    nodes: Sequence[pb.EdgeSender] | Sequence[pb.EdgeReceiver],
    path: str,
) -> NDArray[np.intp]:
    """Where the nodes of a request are in the graph; all of them where it names none."""
    if not messages:
        return np.arange(len(nodes))
    known: Mapping[Node, int] = {_node(graph, node, path): index for index, node in enumerate(nodes)}
    found: list[int] = []
    for number, message in enumerate(messages):
        node, field = _node(graph, message, f"{path}[{number}]"), f"{path}[{number}]"
        if node not in known:
            point, head = node
            of_point = [index for index, (other, _) in enumerate(known) if other == point]
            name = "sender" if path.endswith("senders") else "receiver"
            if of_point and head is None:
                raise InvalidRequestError(f"the head of {point} is missing", field=f"{field}.head")
            if of_point:
                heads = f"{point} has heads 0 to {len(of_point) - 1}" if len(of_point) > 1 else f"{point} has no heads"
                raise InvalidRequestError(f"head {head} is out of range: {heads}", field=f"{field}.head")
            valid = list(dict.fromkeys(other.component for other, _ in known))
            raise InvalidRequestError(
                f"{point} is no {name} of the graph", field=f"{field}.site.component", valid=valid
            )
        if known[node] in found:
            raise InvalidRequestError(f"{node[0]} is named twice", field=field)
        found.append(known[node])
    return np.array(found)


def _node(graph: EdgeGraph, message: pb.EdgeSender | pb.EdgeReceiver, field: str) -> Node:
    points = resolve(message.site, graph.layout.num_layers, field=f"{field}.site")
    if len(points) > 1:
        raise InvalidRequestError(f"the layer of {points[0].component} is missing", field=f"{field}.site.layer")
    return points[0], message.head if message.HasField("head") else None
