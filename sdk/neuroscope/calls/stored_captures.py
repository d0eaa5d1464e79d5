"""Methods of both clients for stored captures and generations."""

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
    """Methods for stored captures and generations."""

    @client_method
    def resume_capture(
        self, capture_id: str, *, restart_token: str = "", progress: ByteListener = False
    ) -> CallFlow[ActivationCache]:
        """The tensors of a `resumable` capture or generation.

        Args:
            capture_id: the id of the capture or generation.
            restart_token: from the StreamingError of an incomplete capture; runs its request again.
            progress: as in `capture`.

        Raises:
            UnknownIdError: no capture of that id is stored, or it has expired.
            StreamingError: it is incomplete or still running; pass its `restart_token` to run it again.
        """
        call = resume_call(capture_id, restart_token=restart_token)
        return (yield from CaptureStream(call, capture_id, bool(restart_token), "resuming", progress))

    @client_method
    def get_capture(self, capture_id: str) -> Call[pb.CaptureRecord]:
        """State, plan, manifest and expiry of a stored capture.

        Raises:
            UnknownIdError: no capture of that id is stored, or it has expired.
        """
        return requests.get_capture(capture_id)

    @client_method
    def captures(self) -> Call[list[pb.CaptureRecord]]:
        """The stored captures, oldest first."""
        return requests.captures()

    @client_method
    def delete_capture(self, capture_id: str) -> Call[None]:
        """Removes a stored capture.

        Raises:
            UnknownIdError: no capture of that id is stored.
            InvalidRequestError: it is still running.
        """
        return requests.delete_capture(capture_id)

    @client_method
    def captured_tensor(self, capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> CallFlow[Array]:
        """One tensor (1, ...) of one step and row of a stored capture, without reading the rest.

        Args:
            capture_id: the id of a `resumable` capture or generation.
            plan_index: entry of its plan, `get_capture(capture_id).plan.tensors`.
            step: the step of a generation; 0 is the prefill.
            row: the row of the request.

        Raises:
            UnknownIdError: no capture of that id is stored, or it has expired.
            StreamingError: the capture is incomplete.
            InvalidRequestError: it has no such tensor; the message lists what it has.
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
        """Streams the bytes of a tensor or of a range of it; an empty part follows the header.

        Args:
            state: receives the header.
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
