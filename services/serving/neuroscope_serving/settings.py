"""The settings that every service has: where it listens, who may call, how it ends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def split(value: Any) -> Any:
    """A text of names separated by commas as a list; what is no text stays as it is."""
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


class ServingSettings(BaseSettings):
    """A gRPC service. Every field is a flag (`--port`) and an environment variable with the service's prefix."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback is reachable by others."""
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    """Port to listen on; 0 takes any free one."""
    unix_socket: str = ""
    """Path of a Unix domain socket to listen on besides, for its owner alone; clients name unix:PATH."""
    tls_certificate: str = ""
    """File of the certificate chain, PEM. Turns on TLS on the port."""
    tls_key: str = ""
    """File of the certificate's private key, PEM."""
    tls_client_ca: str = ""
    """File of certificates, PEM; clients must show one that descends from these (mutual TLS)."""
    token: SecretStr = SecretStr("")
    """Every call must carry it, health checks excepted. Command lines can be read by others: set the variable, or
    token_file."""
    token_file: str = ""
    """File that holds the token."""
    max_streams_per_client: Annotated[int, Field(ge=1)] = 64
    """Most streams of one client at a time; a client is an address, and the gateway is one."""
    max_streams: Annotated[int, Field(ge=1)] = 256
    """Most streams of all clients at a time."""
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """On SIGTERM running requests have this long to end."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged."""
