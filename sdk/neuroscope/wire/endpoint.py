"""The address of a service and how clients connect to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from neuroscope.errors import InvalidRequestError
from neuroscope.tracing import telemetry
from neuroscope.wire.tls import Tls

DEFAULT_TARGET = "127.0.0.1:50051"
AUTHORIZATION = "authorization"
BEARER = "Bearer "
_SCHEMES = ("unix", "dns", "ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service and the connection to it.

    Raises:
        InvalidRequestError: the target is malformed, or a token would cross a network without TLS.
    """

    target: str
    """`host:port`, `unix:path`, or a gRPC name with `dns:`, `ipv4:` or `ipv6:`."""
    tls: Tls | bool | None = None
    """TLS settings; True: TLS with gRPC's own root certificates; None or False: plain TCP."""
    token: str = field(default="", repr=False)
    """Bearer token sent with every call; empty: none."""
    shared_memory: bool = True
    """Whether to receive large tensors through shared memory if the service is on this host."""
    service: str = "inference"
    """Name of the service in error messages."""

    def __post_init__(self) -> None:
        scheme, separator, _ = self.target.partition("://")
        if separator and scheme not in _SCHEMES:
            raise InvalidRequestError(
                f"target must be host:port, such as 127.0.0.1:50051, or unix:path, not {self.target!r}", field="target"
            )
        if self.token:
            check_token(self.token)
        if self.token and self.encryption is None and not self.is_on_this_host:
            raise InvalidRequestError(
                f"the token would cross the network to {self.target} unencrypted; use TLS (tls=) or a tunnel from this "
                "host",
                field="token",
            )

    def __str__(self) -> str:
        return self.target

    @property
    def is_on_this_host(self) -> bool:
        """Whether the target is a Unix socket or a loopback address."""
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
        """Whether streams ask the service for shared memory."""
        return self.shared_memory and self.is_on_this_host

    def metadata(self) -> list[tuple[str, str]]:
        """Metadata of a call: the trace context and the token."""
        metadata = telemetry.inject()
        if self.token:
            metadata.append((AUTHORIZATION, f"{BEARER}{self.token}"))
        return metadata

    @property
    def encryption(self) -> Tls | None:
        """TLS settings; None: plain TCP."""
        return self.tls if isinstance(self.tls, Tls) else Tls() if self.tls else None

    def open(self, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """Opens a channel.

        Raises:
            InvalidRequestError: a certificate or key file cannot be read.
        """
        if (tls := self.encryption) is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, tls.credentials(), options=[*options, *tls.options()])

    def open_async(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """Opens a channel of the running event loop. Errors are those of `open`."""
        if (tls := self.encryption) is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, tls.credentials(), options=[*options, *tls.options()])


def check_token(token: str, field: str = "token") -> None:
    """Raises InvalidRequestError if an HTTP header cannot carry the token."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequestError("a token must be printable ASCII without spaces", field=field)


def read_token(path: str | Path, field: str = "token_file") -> str:
    """Reads a token from a file; white space around it is dropped.

    Raises:
        InvalidRequestError: the file cannot be read, is empty, or does not hold a token.
    """
    try:
        token = Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"cannot read the token file {path}: {error}", field=field) from None
    if not token:
        raise InvalidRequestError(f"the token file {path} is empty", field=field)
    check_token(token, field)
    return token
