"""Captures and generations that a service keeps: a part of both clients."""

from __future__ import annotations

from neuroscope.activations.cache import ActivationCache
from neuroscope.base_client.call import Call, CallFlow, CaptureStream, Stream
from neuroscope.base_client.client_method import client_method, client_stream
from neuroscope.base_client.progress import ByteListener
from neuroscope.base_client.retry import resume_call
from neuroscope.calls import requests
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.captured_tensor_reader import CapturedTensorReader


class StoredCaptureCalls:
    """What both clients do with what the service keeps."""

    @client_method
    def resume_capture(
        self, capture_id: str, *, restart_token: str = "", progress: ByteListener = False
    ) -> CallFlow[ActivationCache]:
        """The tensors of a capture or generation that was `resumable`, byte for byte.

        Args:
            capture_id: its id, or the generation's.
            restart_token: from the StreamingError that said that it broke off: runs its request again.
            progress: as in `capture`.

        Raises:
            UnknownIdError: nothing of that id is kept, or no longer.
            StreamingError: it broke off, or is still running; its `restart_token` is for the argument of that name.
        """
        call = resume_call(capture_id, restart_token=restart_token)
        return (yield from CaptureStream(call, capture_id, bool(restart_token), "resuming", progress))

    @client_method
    def get_capture(self, capture_id: str) -> Call[pb.CaptureRecord]:
        """State, plan, manifest and time of expiry of what is kept under an id.

        Raises:
            UnknownIdError: nothing is, or no longer.
        """
        return requests.get_capture(capture_id)

    @client_method
    def captures(self) -> Call[list[pb.CaptureRecord]]:
        """What the service keeps, oldest first."""
        return requests.captures()

    @client_method
    def delete_capture(self, capture_id: str) -> Call[None]:
        """Removes what is kept under an id.

        Raises:
            UnknownIdError: nothing is.
            InvalidRequestError: it is still running.
        """
        return requests.delete_capture(capture_id)

    @client_method
    def captured_tensor(self, capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> CallFlow[Array]:
        """One tensor of what is kept under an id: of one step and row, (1, ...), without the rest of the stream.

        Args:
            capture_id: of a capture or generation that was `resumable`.
            plan_index: entry of its plan, `get_capture(capture_id).plan.tensors`.
            step: of a generation; 0 is the prefill.
            row: of the request.

        Raises:
            UnknownIdError: nothing of that id is kept, or no longer.
            StreamingError: it is not whole.
            InvalidRequestError: it has no such tensor; says what it has.
        """
        state = CapturedTensorReader()
        parts: list[memoryview] = []
        call = requests.captured_tensor(capture_id, plan_index, step=step, row=row)
        yield from _parts(call, state).each(parts.append)
        return state.array(parts)

    @client_stream
    def captured_tensor_bytes(
        self,
        state: CapturedTensorReader,
        capture_id: str,
        plan_index: int,
        *,
        step: int = 0,
        row: int = 0,
        offset_bytes: int = 0,
        length_bytes: int = 0,
    ) -> Stream[memoryview]:
        """The bytes of such a tensor as they come, or of a range; an empty part says that the header is there.

        Args:
            state: gets the header.
            capture_id, plan_index, step, row: as in `captured_tensor`.
            offset_bytes: first byte; negative: from the end.
            length_bytes: 0: to the end.
        """
        call = requests.captured_tensor(
            capture_id, plan_index, step=step, row=row, offset_bytes=offset_bytes, length_bytes=length_bytes
        )
        return _parts(call, state)


def _parts(call: Call[None], state: CapturedTensorReader) -> Stream[memoryview]:
    return Stream(
        call.name, call.rpc, call.request, lambda event: (state.feed(event) or memoryview(b""),), state.finish
    )
