"""Edges of a model's graph by name, from senders (write to the residual stream) to receivers (read from it).

    senders     input        the input of the first block
                a3.h5, m3    the output of a head, of an MLP
    receivers   a9.h6<q>     the queries of a head; <k> and <v> belong to key/value heads
                m9           the input of an MLP
                logits       the input of the final norm
    edges       a3.h5->m9

Names follow the EAP-IG reference implementation (Hanna et al. 2024, arXiv:2403.17806).
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
"""A name such as a3.h5->m9, or a pair of sender and receiver."""
EdgeSet: TypeAlias = "Edge | Iterable[Edge]"
EdgeSets: TypeAlias = "NDArray[np.bool_] | Mapping[str, EdgeSet] | Iterable[EdgeSet] | None"
"""Cells: masks (cells, senders, receivers), or sets of edges with or without names; None for each edge alone."""
_ARROW = "->"
_SENDERS = ("input", "a3.h5", "m3")
_RECEIVERS = ("logits", "a9.h6<q>", "a9.h6<k>", "a9.h6<v>", "m9")


def to_edge_grid(cells: EdgeSets, value: pb.SweepValue) -> pb.EdgeGrid:
    """The contract's message of sets of edges.

    Raises:
        InvalidRequestError: a name is invalid, or masks are not boolean (cells, senders, receivers).
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
    """The contract's message of named sets of edges; names may be empty.

    Raises:
        InvalidRequestError: the name of an edge is invalid.
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
    """The contract's message of a sender.

    Raises:
        InvalidRequestError: the name is not a sender's.
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
    """The contract's message of a receiver.

    Raises:
        InvalidRequestError: the name is not a receiver's.
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
    """The edges of a set; a single edge is a set too."""
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
