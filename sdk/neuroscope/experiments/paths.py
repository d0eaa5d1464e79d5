"""Paths from senders to receivers by name.

    senders     input        the input of the first block
                a3.h5, a3    the output of a head, of an attention layer
                m3           the output of an MLP
                heads, mlps  all heads or MLPs of layers before the receivers
    receivers   a9.h6<q>     the queries of a head; <k> and <v> belong to key/value heads
                a9<q>        the queries of all heads of a layer
                m9           the input of an MLP
                logits       the input of the final norm

Edge attributions use the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.grids import EACH, to_axis, to_indices
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2

Positions: TypeAlias = "SupportsIndex | Iterable[SupportsIndex] | None"
Receivers: TypeAlias = "str | Iterable[str | Iterable[str]]"
"""Names; a nested list or tuple is one cell of several receivers."""

_SENDER = re.compile(r"(?P<kind>[am])(?P<layer>\d{1,9})(?:\.h(?P<head>\d{1,9}))?")
_RECEIVER = re.compile(r"(?P<kind>[am])(?P<layer>\d{1,9})(?:\.h(?P<head>\d{1,9}))?(?:<(?P<part>[qkv])>)?")
PARTS = {"q": "q_proj", "k": "k_proj", "v": "value"}
_EVERY = {"heads": "head_output", "mlps": "mlp_out", "input": "resid_pre"}
_SENDER_FORMS = ("input", "heads", "mlps", "a3.h5", "a3", "m3")
_RECEIVER_FORMS = ("logits", "a9.h6<q>", "a9.h6<k>", "a9.h6<v>", "a9<q>", "m9")


def to_senders(names: str | Iterable[str], positions: Positions = None) -> list[pb.PathSender]:
    """The contract's messages of senders.

    Raises:
        InvalidRequestError: a name is invalid.
    """
    return [_sender(name, positions) for name in _listed(names)]


def to_receivers(names: Receivers, positions: Positions = None) -> list[pb.PathReceivers]:
    """The contract's messages of receivers, one for each cell.

    Raises:
        InvalidRequestError: a name is invalid.
    """
    entries: list[pb.PathReceivers] = []
    for entry in _listed(names):
        nodes = [_receiver(name, positions) for name in _listed(entry)]
        entries.append(pb.PathReceivers(nodes=nodes))
    return entries


def _sender(name: str, positions: Positions) -> pb.PathSender:
    indices = _indices(positions, "sender_positions")
    if name in _EVERY:
        heads = to_axis(EACH, "heads") if name == "heads" else None
        layer = 0 if name == "input" else None
        return pb.PathSender(site=site_pb2.Site(component=_EVERY[name], layer=layer), heads=heads, positions=indices)
    match = _SENDER.fullmatch(name)
    if match is None or (match["kind"] == "m" and match["head"]):
        raise InvalidRequestError(f"{name!r} names no sender", field="senders", valid=_SENDER_FORMS)
    layer = int(match["layer"])
    if match["kind"] == "m":
        return pb.PathSender(site=site_pb2.Site(component="mlp_out", layer=layer), positions=indices)
    if match["head"] is None:
        return pb.PathSender(site=site_pb2.Site(component="attn_out", layer=layer), positions=indices)
    site = site_pb2.Site(component="head_output", layer=layer)
    return pb.PathSender(site=site, heads=to_axis([int(match["head"])], "heads"), positions=indices)


def _receiver(name: str, positions: Positions) -> pb.PathReceiver:
    indices = _indices(positions, "receiver_positions")
    if name == "logits":
        return pb.PathReceiver(site=site_pb2.Site(component="logits"), positions=indices)
    match = _RECEIVER.fullmatch(name)
    if match is None or (match["kind"] == "m") == bool(match["part"]) or (match["kind"] == "m" and match["head"]):
        raise InvalidRequestError(f"{name!r} names no receiver", field="receivers", valid=_RECEIVER_FORMS)
    layer = int(match["layer"])
    if match["kind"] == "m":
        site = site_pb2.Site(component="mlp_out", layer=layer, side=site_pb2.SIDE_INPUT)
        return pb.PathReceiver(site=site, positions=indices)
    heads = () if match["head"] is None else (int(match["head"]),)
    site = site_pb2.Site(component=PARTS[match["part"]], layer=layer)
    return pb.PathReceiver(site=site, heads=heads, positions=indices)


def _indices(positions: Positions, name: str) -> pb.Indices | None:
    return None if positions is None else pb.Indices(indices=to_indices(positions, name))


def _listed(names: Any) -> Sequence[Any]:
    return [names] if isinstance(names, str) else list(names)
