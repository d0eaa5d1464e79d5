"""The settings of a service that calls the inference service."""

from __future__ import annotations

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from neuroscope.wire.endpoint import Endpoint, read_token
from neuroscope.wire.tls import Tls


def check_target(value: str) -> str:
    """Validates a target.

    Raises:
        ValueError: the value is neither host:port nor unix:path.
    """
    host, _, port = value.rpartition(":")
    if not value.startswith("unix:") and (not host or not port.isdecimal() or int(port) > 65535):
        raise ValueError(f"{value!r} is neither host:port nor unix:path")
    return value


class InferenceClientSettings(BaseSettings):
    """Address and credentials of the inference service."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    inference: str = "127.0.0.1:50051"
    """Address of the inference service: host:port or unix:path."""
    inference_token: SecretStr = SecretStr("")
    """Token of the inference service."""
    inference_token_file: str = ""
    """File with that token."""
    inference_tls: bool = False
    """Use TLS to the inference service; inference_tls_ca and inference_tls_certificate turn it on too."""
    inference_tls_ca: str = ""
    """Certificate authorities (PEM file) for its certificate; empty: those of gRPC."""
    inference_tls_certificate: str = ""
    """Own certificate chain (PEM file), for mutual TLS."""
    inference_tls_key: str = ""
    """Private key of the own certificate (PEM file)."""
    inference_tls_name: str = ""
    """Name in the certificate of the inference service, if it differs from its address."""

    @field_validator("inference")
    @classmethod
    def _is_target(cls, value: str) -> str:
        return check_target(value)

    def inference_endpoint(self) -> Endpoint:
        """The inference service.

        Raises:
            neuroscope.errors.InvalidRequestError: the settings for the token or the certificates conflict.
        """
        return self.endpoint_of(self.inference, "inference")

    def endpoint_of(self, where: str, service: str) -> Endpoint:
        """The endpoint of another service that takes the same credentials.

        Args:
            where: its target.
            service: its name in error messages.

        Raises:
            neuroscope.errors.InvalidRequestError: the settings for the token or the certificates conflict.
        """
        token = self.inference_token.get_secret_value()
        if self.inference_token_file:
            token = read_token(self.inference_token_file, "inference_token_file")
        ca, certificate, key = self.inference_tls_ca, self.inference_tls_certificate, self.inference_tls_key
        tls = Tls(ca or None, certificate or None, key or None, self.inference_tls_name)
        has_tls = self.inference_tls or bool(ca or certificate or key)
        return Endpoint(where, tls if has_tls else None, token, service=service)
