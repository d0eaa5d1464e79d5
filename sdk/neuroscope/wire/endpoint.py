"""Where a service is: its target, and how a client speaks to it."""

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
    """A service.

    Raises:
        InvalidRequestError: the target is none; or a token would cross a network that anybody can read.
    """

    target: str
    """`host:port` or `unix:path`; gRPC's `dns:`, `ipv4:` and `ipv6:` besides."""
    tls: Tls | bool | None = None
    """How the connection is encrypted; True: with the authorities that gRPC brings along."""
    token: str = field(default="", repr=False)
    """Sent with every call, for services that ask for one."""
    shared_memory: bool = True
    """Takes large tensors through shared memory where the service is on this host."""
    service: str = "inference"
    """Which service it is, for errors."""

    def __post_init__(self) -> None:
        scheme, separator, _ = self.target.partition("://")
        if separator and scheme not in _SCHEMES:
            raise InvalidRequestError(
                f"a target is host:port, such as 127.0.0.1:50051, or unix:path, not {self.target!r}", field="target"
            )
        if self.token:
            check_token(self.token)
        if self.token and self.encryption is None and not self.is_on_this_host:
            raise InvalidRequestError(
                f"the token would travel to {self.target} for everybody on the way to read; use TLS (tls=), or a "
                "tunnel that ends on this host",
                field="token",
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

    def metadata(self) -> list[tuple[str, str]]:
        """What a call carries besides its request."""
        found = telemetry.inject()
        if self.token:
            found.append((AUTHORIZATION, f"{BEARER}{self.token}"))
        return found

    @property
    def encryption(self) -> Tls | None:
        """How the connection is encrypted; None: not at all."""
        return self.tls if isinstance(self.tls, Tls) else Tls() if self.tls else None

    def open(self, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """A channel to it.

        Raises:
            InvalidRequestError: a file of certificates cannot be read.
        """
        if (tls := self.encryption) is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, tls.credentials(), options=[*options, *tls.options()])

    def open_async(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A channel to it, of the running event loop. Errors as of `open`."""
        if (tls := self.encryption) is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, tls.credentials(), options=[*options, *tls.options()])


def check_token(token: str, field: str = "token") -> None:
    """Raises InvalidRequestError for what no header can carry."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequestError("a token is printable ASCII without spaces", field=field)


def read_token(path: str | Path, field: str = "token_file") -> str:
    """The token in a file, without the white space around it.

    Raises:
        InvalidRequestError: the file cannot be read, or holds none.
    """
    try:
        token = Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the token in {path} cannot be read: {error}", field=field) from None
    if not token:
        raise InvalidRequestError(f"{path} is empty", field=field)
    check_token(token, field)
    return token
