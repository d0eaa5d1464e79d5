"""Resolves a TensorReference: an inline tensor, an upload, or a tensor of a recorded capture."""

from __future__ import annotations

from typing import Protocol

import xxhash

from neuroscope.errors import ChecksumError, InvalidRequestError, NotImplementedByEngineError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.tensor_checks import to_array
from neuroscope_inference.tensor_store import TensorStore


class CapturedTensors(Protocol):
    """A source of tensors of recorded captures."""

    def tensor(self, captured: tensor_pb2.CapturedTensor, field: str) -> Array:
        """One tensor of one step and row, its pieces concatenated."""
        ...


class TensorReferences:
    """Resolves tensor references of requests. Thread-safe.

    Args:
        store: uploaded tensors.
        captures: recorded captures; None if the service records none.
    """

    def __init__(self, store: TensorStore, captures: CapturedTensors | None = None) -> None:
        self._store = store
        self._captures = captures

    def resolve_tensor(self, reference: tensor_pb2.TensorReference, field: str) -> Array:
        """The referenced tensor, read-only; bfloat16 uses `ml_dtypes`.

        A captured tensor has the axes of its plan, including the batch axis of extent 1. It is read from disk, so call
        this method neither on the event loop nor on the engine's thread.

        Args:
            reference: the reference.
            field: its path in the request, such as `hooks[0].reduction.projection.directions`.

        Raises:
            UnknownIdError: there is no such upload or capture.
            InvalidRequestError: the reference is empty or names no tensor of its capture, or an inline tensor's bytes
                do not fill its shape.
            DataConversionError: an inline tensor has no dtype or a value that is not finite.
            ChecksumError: an inline tensor does not match its checksum.
        """
        match reference.WhichOneof("source"):
            case "tensor_id":
                return self._store.get(reference.tensor_id, field=f"{field}.tensor_id")
            case "captured":
                if self._captures is None:
                    raise NotImplementedByEngineError("this service keeps no captures", field=f"{field}.captured")
                return self._captures.tensor(reference.captured, f"{field}.captured")
            case "inline":
                tensor = reference.inline
                if tensor.xxh3_64 and xxhash.xxh3_64_intdigest(tensor.data) != tensor.xxh3_64:
                    raise ChecksumError("the tensor's bytes were changed on the way", field=f"{field}.inline")
                return to_array(tensor.dtype, tensor.shape, tensor.data, f"{field}.inline")
            case _:
                raise InvalidRequestError(
                    "the reference is empty: an uploaded tensor's id, a tensor of a capture, or one inline", field=field
                )
