"""Where a service is: its target, and how a client speaks to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from neuroscope import sharing
from neuroscope.errors import InvalidRequestError

_SCHEMES = ("unix", "dns", "ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An inference service.

    Raises:
        InvalidRequestError: the target is none.
    """

    target: str
    """`host:port` or `unix:path`; gRPC's `dns:`, `ipv4:` and `ipv6:` besides."""
    shared_memory: bool = True
    """Takes large tensors through shared memory where the service is on this host."""

    def __post_init__(self) -> None:
        scheme, separator, _ = self.target.partition("://")
        if separator and scheme not in _SCHEMES:
            raise InvalidRequestError(
                f"a target is host:port, such as 127.0.0.1:50051, or unix:path, not {self.target!r}", field="target"
            )

    def __str__(self) -> str:
        return self.target

    @property
    def is_on_this_host(self) -> bool:
        """Whether nothing that is sent there leaves the machine, as far as the target tells."""
        scheme, _, rest = self.target.partition(":")
        if scheme == "unix":
            return True
        address = rest.rpartition("/")[2] if scheme in _SCHEMES else self.target
        host = address[1:].partition("]")[0] if address.startswith("[") else address.rpartition(":")[0] or address
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host.lower() == "localhost"

    @property
    def wants_shared_memory(self) -> bool:
        """Whether streams ask for it."""
        return self.shared_memory and self.is_on_this_host

    def stream_metadata(self) -> tuple[tuple[str, str], ...]:
        """What every request for a stream carries besides its trace."""
        return sharing.METADATA if self.wants_shared_memory else ()
