"""Edges of a model's graph, as Python names them: from what writes the residual stream to what reads it.

    senders     input        what enters the first block
                a3.h5, m3    a head's output, an MLP's
    receivers   a9.h6<q>     a head's queries; <k> and <v> are those of key/value heads
                m9           an MLP's input
                logits       what the final norm reads
    edges       a3.h5->m9

Names are those of the EAP-IG reference (Hanna et al. 2024, arXiv:2403.17806), as edge attributions give them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.paths import PARTS
from neuroscope.v1 import circuit_pb2, site_pb2
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.component_names import Place

Edge: TypeAlias = "str | tuple[str, str]"
"""a3.h5->m9, or both of its ends."""
EdgeSet: TypeAlias = "Edge | Iterable[Edge]"
EdgeSets: TypeAlias = "NDArray[np.bool_] | Mapping[str, EdgeSet] | Iterable[EdgeSet] | None"
"""Cells: masks of the whole graph (cells, senders, receivers), sets of edges with names or without; None: each edge."""
_ARROW = "->"
_SENDERS = ("input", "a3.h5", "m3")
_RECEIVERS = ("logits", "a9.h6<q>", "a9.h6<k>", "a9.h6<v>", "m9")


def to_edge_grid(cells: EdgeSets, value: pb.SweepValue) -> pb.EdgeGrid:
    """The message of sets of edges.

    Raises:
        InvalidRequestError: a name means nothing, or masks are no boolean (cells, senders, receivers).
    """
    if cells is None:
        return pb.EdgeGrid(value=value, each=pb.EachIndex())
    if isinstance(cells, np.ndarray):
        masks = _masks(cast("NDArray[Any]", cells))
        return pb.EdgeGrid(value=value, cells=pb.EdgeCells(cells=[_of_mask(mask) for mask in masks]))
    if isinstance(cells, Mapping):
        return of_named(cast("Mapping[str, EdgeSet]", cells).items(), value)
    return of_named([("", cell) for cell in _listed(cells)], value)


def of_named(cells: Iterable[tuple[str, EdgeSet]], value: pb.SweepValue) -> pb.EdgeGrid:
    """The message of sets of edges with names, which may be empty.

    Raises:
        InvalidRequestError: a name means nothing.
    """
    edges = [(name, [_ends(edge) for edge in _listed(cell)]) for name, cell in cells]
    senders = list(dict.fromkeys(sender for _, cell in edges for sender, _ in cell))
    receivers = list(dict.fromkeys(receiver for _, cell in edges for _, receiver in cell))
    rows, columns = ({name: index for index, name in enumerate(names)} for names in (senders, receivers))
    return pb.EdgeGrid(
        senders=map(to_sender, senders),
        receivers=map(to_receiver, receivers),
        value=value,
        cells=pb.EdgeCells(
            cells=[
                pb.EdgeCell(
                    name=name, edges=[rows[sender] * len(receivers) + columns[receiver] for sender, receiver in cell]
                )
                for name, cell in edges
            ]
        ),
    )


def to_sender(name: str) -> pb.EdgeSender:
    """The message of what writes.

    Raises:
        InvalidRequestError: the name is none of a sender.
    """
    place = Place.of(name, "edges")
    match place.kind:
        case circuit_pb2.CIRCUIT_NODE_KIND_INPUT:
            return pb.EdgeSender(site=site_pb2.Site(component="resid_pre", layer=0))
        case circuit_pb2.CIRCUIT_NODE_KIND_MLP:
            return pb.EdgeSender(site=site_pb2.Site(component="mlp_contrib", layer=place.layer))
        case circuit_pb2.CIRCUIT_NODE_KIND_HEAD if not place.slot:
            return pb.EdgeSender(site=site_pb2.Site(component="head_output", layer=place.layer), head=place.head)
        case _:
            raise InvalidRequestError(f"{name!r} sends no edge", field="edges", valid=_SENDERS)


def to_receiver(name: str) -> pb.EdgeReceiver:
    """The message of what reads.

    Raises:
        InvalidRequestError: the name is none of a receiver.
    """
    place = Place.of(name, "edges")
    match place.kind:
        case circuit_pb2.CIRCUIT_NODE_KIND_LOGITS:
            return pb.EdgeReceiver(site=site_pb2.Site(component="logits"))
        case circuit_pb2.CIRCUIT_NODE_KIND_MLP:
            site = site_pb2.Site(component="mlp_out", layer=place.layer, side=site_pb2.SIDE_INPUT)
            return pb.EdgeReceiver(site=site)
        case circuit_pb2.CIRCUIT_NODE_KIND_HEAD if place.slot:
            return pb.EdgeReceiver(site=site_pb2.Site(component=PARTS[place.slot], layer=place.layer), head=place.head)
        case _:
            raise InvalidRequestError(f"{name!r} receives no edge", field="edges", valid=_RECEIVERS)


def _ends(edge: Any) -> tuple[str, str]:
    ends = tuple(edge.split(_ARROW)) if isinstance(edge, str) else tuple(edge)
    if len(ends) != 2 or not all(isinstance(end, str) for end in ends):
        raise InvalidRequestError(f"{edge!r} names no edge; edges are such as a3.h5->m9", field="edges")
    return ends


def _listed(cell: Any) -> Sequence[Any]:
    """The entries of a set; an edge alone is one."""
    if isinstance(cell, str):
        return [cell]
    listed: list[Any] = list(cell)
    is_edge = isinstance(cell, tuple) and len(listed) == 2 and all(isinstance(end, str) for end in listed)
    return [tuple(listed)] if is_edge and not any(_ARROW in end for end in listed) else listed


def _masks(cells: NDArray[Any]) -> NDArray[np.bool_]:
    if cells.dtype != np.bool_ or cells.ndim != 3:
        raise InvalidRequestError(
            f"masks are boolean (cells, senders, receivers), not {cells.dtype} {cells.shape}", field="edges"
        )
    return cells


def _of_mask(mask: NDArray[np.bool_]) -> pb.EdgeCell:
    return pb.EdgeCell(bitmap=np.packbits(mask.reshape(-1), bitorder="little").tobytes())
