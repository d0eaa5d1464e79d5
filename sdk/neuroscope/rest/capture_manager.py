"""Streams that the service behind a gateway keeps, and their tensors as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import xxhash

from neuroscope.errors import ChecksumError, InvalidRequestError
from neuroscope.rest.gateway import GatewayConnection
from neuroscope.vocabulary.tensors import Array, numpy_dtype, parse_dtype

_CAPTURES = "/v1/activations/captures"


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """A tensor of a kept stream. It has values for every step, and for every row (choice) that its hook saw."""

    tensor: int
    """Its number in the capture."""
    hook_id: str
    layer_name: str
    component: str
    """Canonical name."""
    is_input: bool
    dtype: str
    axes: tuple[str, ...]
    reduced: str
    """What of the tensor this is, such as norm; empty: the tensor itself."""
    length_bytes: dict[int, int]
    """By row: bytes of all steps together."""


@dataclass(frozen=True, slots=True)
class KeptCapture:
    """A kept stream."""

    capture_id: str
    state: str
    """running, committed or broken."""
    expires_at: datetime
    prompt_tokens: int
    completion_tokens: int
    tensors: tuple[KeptTensor, ...]

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> KeptCapture:
        """A capture object of REST."""
        return cls(
            capture_id=data["id"],
            state=data["state"],
            expires_at=datetime.fromtimestamp(data["expires_at"], UTC),
            prompt_tokens=data["prompt_tokens"],
            completion_tokens=data["completion_tokens"],
            tensors=tuple(_tensor(tensor) for tensor in data["tensors"]),
        )


class CaptureManager:
    """Lists, reads and removes kept streams: those with a `capture_id`, and those asked for as `metadata`.

    Args:
        gateway: the connection.
    """

    def __init__(self, gateway: GatewayConnection) -> None:
        self._gateway = gateway

    def list(self) -> list[KeptCapture]:
        """The kept streams, oldest first."""
        return [KeptCapture.from_api_format(one) for one in self._gateway.request("GET", _CAPTURES)["data"]]

    def get(self, capture_id: str) -> KeptCapture:
        """A kept stream and its tensors.

        Raises:
            UnknownIdError: nothing of that id is kept, or no longer.
        """
        return KeptCapture.from_api_format(self._gateway.request("GET", _path(capture_id)))

    def delete(self, capture_id: str) -> None:
        """Removes a kept stream.

        Raises:
            UnknownIdError: nothing of that id is kept.
            InvalidRequestError: it is still running.
        """
        self._gateway.request("DELETE", _path(capture_id), idempotent=False)

    def tensor(self, capture_id: str, tensor: int, *, step: int = 0, row: int = 0) -> Array:
        """One tensor of one step (0 is the prefill, its chunks joined) and row, whatever numbers it holds.

        A connection that breaks is taken up where it broke.

        Raises:
            UnknownIdError: nothing of that id is kept, or no longer.
            InvalidRequestError: it has no such tensor; says what it has.
            StreamingError: the stream is not whole, or the connection broke every time.
            ChecksumError: the bytes are not those of the ETag.
        """
        return self.fetch(f"{_path(capture_id)}/{tensor}?step={step}&row={row}")

    def read(
        self,
        capture_id: str,
        tensor: int,
        *,
        step: int = 0,
        row: int = 0,
        first_byte: int = 0,
        length_bytes: int | None = None,
    ) -> bytes:
        """Some bytes of such a tensor, little-endian and row-major; None: all from `first_byte` on.

        Raises:
            InvalidRequestError: the tensor has no such bytes.
            and what `tensor` raises, except ChecksumError, since the ETag is of the whole tensor.
        """
        if first_byte < 0:
            raise InvalidRequestError(f"bytes count from 0, not {first_byte}", field="first_byte")
        if length_bytes is not None and length_bytes < 1:
            raise InvalidRequestError(f"a range has at least one byte, not {length_bytes}", field="length_bytes")
        query = {"step": step, "row": row}
        _, received = self._gateway.download(f"{_path(capture_id)}/{tensor}", query, first_byte, length_bytes)
        return bytes(received)

    def fetch(self, url: str) -> Array:
        """The tensor at the `url` of an activation whose data were left out; errors are those of `tensor`."""
        path, _, query = url.partition("?")
        headers, received = self._gateway.download(path, dict(part.split("=", 1) for part in query.split("&") if part))
        if headers["etag"] != f'"{xxhash.xxh3_64_hexdigest(received)}"':
            raise ChecksumError(f"the bytes of {url} are not those that were sent")
        shape = tuple(int(extent) for extent in headers["x-neuroscope-shape"].split(","))
        kind = numpy_dtype(parse_dtype(headers["x-neuroscope-dtype"], field="dtype")).newbyteorder("<")
        return np.frombuffer(received, kind).reshape(shape)


def _path(capture_id: str) -> str:
    return f"{_CAPTURES}/{quote(capture_id, safe='')}"


def _tensor(data: Mapping[str, Any]) -> KeptTensor:
    return KeptTensor(
        tensor=data["tensor"],
        hook_id=data["hook_id"],
        layer_name=data["layer_name"],
        component=data["component"],
        is_input=data["is_input"],
        dtype=data["dtype"],
        axes=tuple(data["axes"]),
        reduced=data["reduced"],
        length_bytes={row["row"]: row["length_bytes"] for row in data["rows"]},
    )
