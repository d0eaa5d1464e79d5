"""Uploaded tensors, held in memory for a limited time under an id that is the hash of their content."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import xxhash

from neuroscope.errors import InvalidRequestError, ResourceExhaustedError, UnknownIdError, nearest
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array, dtype_name
from neuroscope_inference.tensor_checks import to_array

MAX_TIME_TO_LIVE_S = 30 * 24 * 3600


@dataclass(slots=True)
class StoredTensor:
    """An uploaded tensor."""

    tensor_id: str
    array: Array  # read-only
    expires_at_s: float  # Unix time


class TensorStore:
    """Uploads within a byte budget. Thread-safe.

    Args:
        max_bytes: budget of all tensors, including those being uploaded.
        ttl_seconds: default lifetime.
        clock: Unix time in seconds.
    """

    def __init__(self, max_bytes: int, ttl_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._tensors: dict[str, StoredTensor] = {}
        self._arriving_bytes = 0

    @contextmanager
    def reserve(self, nbytes: int) -> Generator[None]:
        """Reserves memory while a tensor is uploaded; call `put` inside the block.

        Raises:
            ResourceExhaustedError: the budget is exhausted; says how much is held and when the next tensor expires.
        """
        with self._lock:
            self._forget_expired()
            held = self._held_bytes()
            if held + nbytes > self._max_bytes:
                raise ResourceExhaustedError(
                    f"the tensor has {nbytes} bytes; uploads hold {held} of {self._max_bytes}{self._next_expiry()}",
                    field="header.shape",
                )
            self._arriving_bytes += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._arriving_bytes -= nbytes

    def put(
        self,
        dtype: tensor_pb2.DataType.ValueType,
        shape: Sequence[int],
        data: bytes | bytearray,
        time_to_live_ms: int = 0,
        *,
        field: str = "header",
    ) -> StoredTensor:
        """Stores a tensor, or extends the lifetime of an equal one. The store owns `data` from now on.

        Args:
            dtype: element type.
            shape: extents, outermost first.
            data: row-major little-endian bytes.
            time_to_live_ms: lifetime; 0: the default. It never shortens the lifetime of an equal tensor.
            field: path of the tensor in the request, for errors.

        Raises:
            InvalidRequestError, DataConversionError: as `tensor_checks.to_array`.
        """
        lifetime_s = self.lifetime_s(time_to_live_ms, f"{field}.time_to_live_ms")
        array = to_array(dtype, shape, data, field)
        tensor_id = content_id(dtype, shape, data)
        expires_at_s = self._clock() + lifetime_s
        with self._lock:
            stored = self._tensors.get(tensor_id)
            if stored is None:
                stored = self._tensors[tensor_id] = StoredTensor(tensor_id, array, expires_at_s)
            stored.expires_at_s = max(stored.expires_at_s, expires_at_s)
            return stored

    def get(self, tensor_id: str, *, field: str = "tensor_id") -> Array:
        """The tensor with that id, read-only; bfloat16 uses `ml_dtypes`.

        Raises:
            UnknownIdError: there is none, or it has expired; names the nearest ids.
        """
        with self._lock:
            self._forget_expired()
            stored = self._tensors.get(tensor_id)
            known = list(self._tensors)
        if stored is not None:
            return stored.array
        valid = nearest(tensor_id, known)
        there = f"stored: {', '.join(valid)}" if valid else "none is stored"
        raise UnknownIdError(
            f"no tensor {tensor_id!r} was uploaded, or its time is over; {there}", field=field, valid=valid
        )

    def lifetime_s(self, time_to_live_ms: int, field: str) -> float:
        """The lifetime of a tensor in seconds.

        Raises:
            InvalidRequestError: it is longer than the maximum.
        """
        if time_to_live_ms > 1e3 * MAX_TIME_TO_LIVE_S:
            raise InvalidRequestError(f"a tensor stays at most {MAX_TIME_TO_LIVE_S} seconds", field=field)
        return time_to_live_ms / 1e3 if time_to_live_ms else self._ttl_s

    def _forget_expired(self) -> None:
        now = self._clock()
        self._tensors = {key: stored for key, stored in self._tensors.items() if stored.expires_at_s > now}

    def _held_bytes(self) -> int:
        return self._arriving_bytes + sum(stored.array.nbytes for stored in self._tensors.values())

    def _next_expiry(self) -> str:
        if not self._tensors:
            return ""
        seconds = min(stored.expires_at_s for stored in self._tensors.values()) - self._clock()
        return f", and the next of them goes in {max(seconds, 0):.0f} s"


def content_id(dtype: tensor_pb2.DataType.ValueType, shape: Sequence[int], data: bytes | bytearray) -> str:
    """XXH3-128 of dtype, shape and bytes, in hexadecimal."""
    digest = xxhash.xxh3_128(f"{dtype_name(dtype)}{list(shape)}".encode())
    digest.update(data)
    return digest.hexdigest()
