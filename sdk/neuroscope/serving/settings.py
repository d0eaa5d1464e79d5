"""The settings that every service has: where it listens, who may call, how it ends."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


def split(value: Any) -> Any:
    """A text of names separated by commas as a list; what is no text stays as it is."""
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


class ServingSettings(BaseSettings):
    """A gRPC service. Every field is a flag (`--port`) and an environment variable with the service's prefix."""

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback is reachable by others.")
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    unix_socket: str = Field(
        "",
        description="Path of a Unix domain socket to listen on besides, for its owner alone; clients name unix:PATH.",
    )
    tls_certificate: str = Field("", description="File of the certificate chain, PEM. Turns on TLS on the port.")
    tls_key: str = Field("", description="File of the certificate's private key, PEM.")
    tls_client_ca: str = Field(
        "", description="File of certificates, PEM; clients must show one that descends from these (mutual TLS)."
    )
    token: SecretStr = Field(
        SecretStr(""),
        description="Every call must carry it, health checks excepted. Command lines can be read by others: set the "
        "variable, or token_file.",
    )
    token_file: str = Field("", description="File that holds the token.")
    max_streams_per_client: int = Field(
        64, ge=1, description="Most streams of one client at a time; a client is an address, and the gateway is one."
    )
    max_streams: int = Field(256, ge=1, description="Most streams of all clients at a time.")
    drain_seconds: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="On SIGTERM running requests have this long to end."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged.")
