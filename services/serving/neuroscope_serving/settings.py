"""Settings of every service: address, authentication, limits and shutdown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def split_names(value: Any) -> Any:
    """Splits a text at commas; other values stay unchanged."""
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


class ServingSettings(BaseSettings):
    """A gRPC service. Every field is a flag (`--port`) and an environment variable with the service's prefix."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Addresses other than loopback are reachable from other machines."""
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    """Port to listen on; 0: any free port."""
    unix_socket: str = ""
    """Also listen on a Unix domain socket at this path, which only its owner can open; clients use unix:PATH."""
    tls_certificate: str = ""
    """Certificate chain (PEM file); turns on TLS on the port."""
    tls_key: str = ""
    """Private key of the certificate (PEM file)."""
    tls_client_ca: str = ""
    """Certificate authorities (PEM file) for client certificates; turns on mutual TLS."""
    token: SecretStr = SecretStr("")
    """Token that every call except health checks must carry. Other users can read command lines: prefer the environment
    variable or token_file."""
    token_file: str = ""
    """File with the token."""
    max_streams_per_client: Annotated[int, Field(ge=1)] = 64
    """Maximum concurrent streams of one client; a client is an address, and the gateway is one client."""
    max_streams: Annotated[int, Field(ge=1)] = 256
    """Maximum concurrent streams of all clients."""
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Time that running requests have to finish after SIGTERM."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
