"""Paths from senders to receivers, as Python names them.

    senders     input        what enters the first block
                a3.h5, a3    a head's output, an attention layer's
                m3           an MLP's output
                heads, mlps  those of every layer that reaches the receivers
    receivers   a9.h6<q>     a head's queries; <k> and <v> are those of key/value heads
                a9<q>        of all heads
                m9           an MLP's input
                logits       what the final norm reads

They are the names that edge attributions give.
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
"""Names; those in a list or tuple of their own read the path together."""

_SENDER = re.compile(r"(?P<kind>[am])(?P<layer>\d{1,9})(?:\.h(?P<head>\d{1,9}))?")
_RECEIVER = re.compile(r"(?P<kind>[am])(?P<layer>\d{1,9})(?:\.h(?P<head>\d{1,9}))?(?:<(?P<part>[qkv])>)?")
PARTS = {"q": "q_proj", "k": "k_proj", "v": "value"}
_EVERY = {"heads": "head_output", "mlps": "mlp_out", "input": "resid_pre"}
_SENDER_FORMS = ("input", "heads", "mlps", "a3.h5", "a3", "m3")
_RECEIVER_FORMS = ("logits", "a9.h6<q>", "a9.h6<k>", "a9.h6<v>", "a9<q>", "m9")


def to_senders(names: str | Iterable[str], positions: Positions = None) -> list[pb.PathSender]:
    """The messages of senders.

    Raises:
        InvalidRequestError: a name means nothing.
    """
    return [_sender(name, positions) for name in _listed(names)]


def to_receivers(names: Receivers, positions: Positions = None) -> list[pb.PathReceivers]:
    """The messages of receivers, an entry for each cell.

    Raises:
        InvalidRequestError: a name means nothing.
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
