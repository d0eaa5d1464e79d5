"""How a client knows a service, and a service its client: certificates in PEM files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from neuroscope.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards a service.

    Tls()                                                the authorities that gRPC brings along
    Tls("ca.pem")                                        an authority of one's own, or the service's own certificate
    Tls("ca.pem", "client.pem", "client.key")            mutual: the service knows this client
    """

    authority: str | os.PathLike[str] | None = None
    """File of certificates that the service's must descend from; None: those that gRPC brings along."""
    certificate: str | os.PathLike[str] | None = None
    """File of this client's certificate chain."""
    key: str | os.PathLike[str] | None = None
    """File of its private key."""
    server_name: str = ""
    """The name in the service's certificate, where the target is another."""

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel takes.

        Raises:
            InvalidRequestError: a file cannot be read, or there is a certificate without a key.
        """
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequestError("a certificate and its key come together", field="tls.key")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.authority, "tls.authority"),
            private_key=_pem(self.key, "tls.key"),
            certificate_chain=_pem(self.certificate, "tls.certificate"),
        )

    def options(self) -> tuple[tuple[str, str], ...]:
        """What the channel's options say of it."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def read_pem(path: str | os.PathLike[str], field: str) -> bytes:
    """The content of a PEM file.

    Raises:
        InvalidRequestError: there is none.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{os.fspath(path)} cannot be read: {error.strerror}", field=field) from None
    if b"-----BEGIN " not in content:
        raise InvalidRequestError(f"{os.fspath(path)} is no PEM file", field=field)
    return content


def _pem(path: str | os.PathLike[str] | None, field: str) -> bytes | None:
    return None if path is None else read_pem(path, field)
