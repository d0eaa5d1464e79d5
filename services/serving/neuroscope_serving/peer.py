"""The client behind a gRPC peer."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote


def client_address(peer: str) -> str:
    """The address of a gRPC peer without its port: 127.0.0.1 for `ipv4:127.0.0.1:50312`, `unix` for a Unix socket."""
    scheme, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0] if scheme in ("ipv4", "ipv6") else scheme


def is_local(address: str) -> bool:
    """Whether an address is `unix` or loopback. The far end of a tunnel looks local too."""
    if address == "unix":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
