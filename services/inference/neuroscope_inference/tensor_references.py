"""From a TensorReference to its numbers, wherever they are: in the request, among the uploads, in a kept capture."""

from __future__ import annotations

from typing import Protocol

import xxhash

from neuroscope.errors import ChecksumError, InvalidRequestError, NotImplementedByEngineError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.tensor_checks import array_of
from neuroscope_inference.tensor_store import TensorStore


class CapturedTensors(Protocol):
    """Where tensors of kept captures come from."""

    def tensor(self, captured: tensor_pb2.CapturedTensor, field: str) -> Array:
        """One tensor of one step and row, its pieces joined."""
        ...


class TensorReferences:
    """Resolves the references of requests. Methods may be called from any thread.

    Args:
        store: uploaded tensors.
        captures: kept captures; None where the service keeps none.
    """

    def __init__(self, store: TensorStore, captures: CapturedTensors | None = None) -> None:
        self._store = store
        self._captures = captures

    def resolve_tensor(self, reference: tensor_pb2.TensorReference, field: str) -> Array:
        """The tensor that a reference means, read-only; bfloat16 is the type of `ml_dtypes`.

        A tensor of a capture has the axes of its plan, the batch axis of extent 1 included. It is read from disk, so
        call this outside of the event loop (`asyncio.to_thread`) and of the engine's thread.

        Args:
            reference: what a request carries.
            field: its path in the request, such as `hooks[0].reduction.projection.directions`.

        Raises:
            UnknownIdError: no such upload or capture.
            InvalidRequestError: the reference is empty, or names no tensor of its capture; an inline tensor's bytes
                do not fill its shape.
            DataConversionError: an inline tensor has no type, or a value that is not finite.
            ChecksumError: an inline tensor's bytes are not those of its checksum.
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
                return array_of(tensor.dtype, tensor.shape, tensor.data, f"{field}.inline")
            case _:
                raise InvalidRequestError(
                    "the reference is empty: an uploaded tensor's id, a tensor of a capture, or one inline", field=field
                )
