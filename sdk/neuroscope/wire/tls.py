"""TLS settings of a client: certificates and keys in PEM files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from neuroscope.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings.

    Tls()                                                gRPC's own root certificates
    Tls("ca.pem")                                        a private authority, or the service's self-signed certificate
    Tls("ca.pem", "client.pem", "client.key")            mutual TLS
    """

    authority: str | os.PathLike[str] | None = None
    """Authorities (PEM file) that the service's certificate must descend from; None: gRPC's own root certificates."""
    certificate: str | os.PathLike[str] | None = None
    """This client's certificate chain (PEM file), for mutual TLS."""
    key: str | os.PathLike[str] | None = None
    """Private key of `certificate` (PEM file)."""
    server_name: str = ""
    """Name in the service's certificate, if it differs from the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Channel credentials.

        Raises:
            InvalidRequestError: a file cannot be read, or one of certificate and key is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequestError("certificate and key must be given together", field="tls.key")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.authority, "tls.authority"),
            private_key=_pem(self.key, "tls.key"),
            certificate_chain=_pem(self.certificate, "tls.certificate"),
        )

    def options(self) -> tuple[tuple[str, str], ...]:
        """Channel options."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def read_pem(path: str | os.PathLike[str], field: str) -> bytes:
    """Reads a PEM file.

    Raises:
        InvalidRequestError: the file cannot be read, or is not PEM.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{os.fspath(path)} cannot be read: {error.strerror}", field=field) from None
    if b"-----BEGIN " not in content:
        raise InvalidRequestError(f"{os.fspath(path)} is not a PEM file", field=field)
    return content


def _pem(path: str | os.PathLike[str] | None, field: str) -> bytes | None:
    return None if path is None else read_pem(path, field)
