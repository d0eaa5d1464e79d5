"""Settings of the gateway, from the command line and NEUROSCOPE_GATEWAY_* variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from neuroscope_serving.inference_client import InferenceClientSettings, check_target

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
LOOPBACK_ORIGINS = tuple(f"{scheme}://{host}:*" for scheme in ("http", "https") for host in LOOPBACK_HOSTS)
WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")


def _split(value: Any) -> Any:
    """Splits comma-separated names."""
    match value:
        case str():
            return tuple(name for part in value.split(",") if (name := part.strip()))
        case list() | tuple():
            items = cast("Sequence[Any]", value)
            return tuple(name for item in items for name in (_split(item) if isinstance(item, str) else [item]))
        case _:
            return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class GatewaySettings(InferenceClientSettings):
    """Every field is a flag (`--max-body-bytes`) and a variable (`NEUROSCOPE_GATEWAY_MAX_BODY_BYTES`)."""

    model_config = SettingsConfigDict(
        env_prefix="NEUROSCOPE_GATEWAY_",
        cli_prog_name="python -m neuroscope_gateway",
        cli_kebab_case=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
        frozen=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0: any free port. If it is taken, the next free one."""
    analysis: str = "127.0.0.1:50052"
    """Address of the analysis service: host:port or unix:path; token and TLS are those of inference."""
    allowed_origins: Names = LOOPBACK_ORIGINS
    """Web origins that may call the gateway, separated by commas; `:*` is any port, `*` any origin."""
    allowed_hosts: Names = LOOPBACK_HOSTS
    """Accepted values of the Host header, separated by commas, without port; `*`: any."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024
    """Maximum size of a request body."""
    body_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time in which a request body must arrive."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 256
    """Maximum concurrent requests, streams included; the next gets 503 with Retry-After. /health does not count."""
    api_keys: Annotated[Names, Field(repr=False)] = ()
    """Accepted keys (`Authorization: Bearer KEY`), separated by commas; none: everybody may call. Others can read
    command lines: use the variable. /health needs no key."""

    @field_validator("analysis")
    @classmethod
    def _analysis_is_target(cls, value: str) -> str:
        return check_target(value)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> GatewaySettings:
        """Parses a command line; the environment and defaults fill the rest.

        Raises:
            pydantic.ValidationError: a value is invalid.
            SystemExit: a flag is unknown, or --help.
        """
        return cls(_cli_parse_args=list(arguments))  # pyright: ignore[reportCallIssue]  # pydantic-settings' own argument

    def hosts(self) -> frozenset[str]:
        """The accepted host names: the allowed ones and the address to listen on."""
        names = {name.lower() for name in self.allowed_hosts}
        if self.host not in WILDCARD_ADDRESSES:
            names.add(f"[{self.host}]" if ":" in self.host else self.host.lower())
        return frozenset(names)
