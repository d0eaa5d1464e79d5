"""Names of what writes and reads the residual stream, as in the EAP-IG reference (Hanna et al. 2024, arXiv:2403.17806).

input                    what enters the first block; it writes
a0.h3, m0                a head, an MLP; they write, and an MLP reads under the same name
a1.h0<q> <k> <v>         what a head reads; keys and values are those of key/value heads
logits                   what the final norm reads
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2, site_pb2

INPUT, LOGITS = "input", "logits"
SLOTS = ("q", "k", "v")
"""What a head reads, in the order of the reference."""
_NAME = re.compile(r"(?:(?P<end>input|logits)|a(?P<layer>\d+)\.h(?P<head>\d+)(?:<(?P<slot>[qkv])>)?|m(?P<mlp>\d+))")
_SITES = {"q_proj": "q", "k_proj": "k", "value": "v"}


@dataclass(frozen=True, slots=True)
class Place:
    """A name, taken apart."""

    kind: pb.CircuitNodeKind.ValueType
    layer: int | None = None
    head: int | None = None
    """Of a slot k or v, the key/value head."""
    slot: str = ""
    """q, k or v of what a head reads; empty of what writes."""

    @classmethod
    def of(cls, name: str, field: str = "name") -> Place:
        """From its name.

        Raises:
            InvalidRequestError: it is none.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise InvalidRequestError(
                f"{name!r} is no name of a node; names are input, a0.h3, a0.h3<q>, m0, logits", field=field
            )
        if found["end"]:
            is_input = found["end"] == INPUT
            return cls(pb.CIRCUIT_NODE_KIND_INPUT if is_input else pb.CIRCUIT_NODE_KIND_LOGITS)
        if found["mlp"]:
            return cls(pb.CIRCUIT_NODE_KIND_MLP, int(found["mlp"]))
        return cls(pb.CIRCUIT_NODE_KIND_HEAD, int(found["layer"]), int(found["head"]), found["slot"] or "")

    def __str__(self) -> str:
        match self.kind:
            case pb.CIRCUIT_NODE_KIND_HEAD:
                return f"a{self.layer}.h{self.head}" + (f"<{self.slot}>" if self.slot else "")
            case pb.CIRCUIT_NODE_KIND_MLP:
                return f"m{self.layer}"
            case pb.CIRCUIT_NODE_KIND_INPUT:
                return INPUT
            case _:
                return LOGITS


def sender_name(sender: experiment_pb2.EdgeSender) -> str:
    """The name of what writes."""
    return _named(sender.site, sender.head if sender.HasField("head") else None)


def receiver_name(receiver: experiment_pb2.EdgeReceiver) -> str:
    """The name of what reads."""
    return _named(receiver.site, receiver.head if receiver.HasField("head") else None)


def edge_name(edge: pb.CircuitEdge) -> str:
    """As the reference writes it: input->a0.h0<q>."""
    return f"{edge.sender}->{edge.receiver}"


def _named(site: site_pb2.Site, head: int | None) -> str:
    if head is not None:
        return str(Place(pb.CIRCUIT_NODE_KIND_HEAD, site.layer, head, _SITES.get(site.component, "")))
    if site.component == "resid_pre":
        return INPUT
    return f"m{site.layer}" if site.HasField("layer") else site.component
