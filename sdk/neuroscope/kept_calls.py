"""Captures and generations that a service keeps: a part of both clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing

from neuroscope import requests
from neuroscope.cache import ActivationCache
from neuroscope.calling import AsyncCaller, Caller
from neuroscope.captured_tensor import CapturedTensor
from neuroscope.progress import ByteListener
from neuroscope.recovery import Recovery
from neuroscope.tensors import Array
from neuroscope.v1 import inference_pb2 as pb


class KeptCalls(Caller):
    """What `Client` does with what the service keeps."""

    def resume_capture(
        self, capture_id: str, *, restart_token: str = "", progress: ByteListener = False
    ) -> ActivationCache:
        """The tensors of a capture or generation that was `resumable`, byte for byte.

        Args:
            capture_id: its id, or the generation's.
            restart_token: from the StreamingError that said that it broke off: runs its request again.
            progress: as in `capture`.

        Raises:
            UnknownIdError: nothing of that id is kept, or no longer.
            StreamingError: it broke off, or is still running; its `restart_token` is for the argument of that name.
        """
        call = requests.resume_capture(capture_id, restart_token=restart_token)
        recovery = Recovery(call, self._retry, capture_id, restarts=bool(restart_token))
        return self._captured(recovery, "resuming", progress)

    def get_capture(self, capture_id: str) -> pb.CaptureRecord:
        """State, plan, manifest and time of expiry of what is kept under an id.

        Raises:
            UnknownIdError: nothing is, or no longer.
        """
        return self._unary(requests.get_capture(capture_id))

    def captures(self) -> list[pb.CaptureRecord]:
        """What the service keeps, oldest first."""
        return self._unary(requests.captures())

    def delete_capture(self, capture_id: str) -> None:
        """Removes what is kept under an id.

        Raises:
            UnknownIdError: nothing is.
            InvalidRequestError: it is still running.
        """
        return self._unary(requests.delete_capture(capture_id))

    def captured_tensor(self, capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> Array:
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
        state = CapturedTensor()
        return state.array(list(self.captured_tensor_bytes(state, capture_id, plan_index, step=step, row=row)))

    def captured_tensor_bytes(
        self,
        state: CapturedTensor,
        capture_id: str,
        plan_index: int,
        *,
        step: int = 0,
        row: int = 0,
        offset_bytes: int = 0,
        length_bytes: int = 0,
    ) -> Generator[memoryview, None, None]:
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
        with closing(self._transport.stream(call.rpc, call.request)) as events:
            for event in events:
                yield state.feed(event) or memoryview(b"")
        state.finish()


class AsyncKeptCalls(AsyncCaller):
    """What `AsyncClient` does with what the service keeps; the docstrings of `KeptCalls` hold here too."""

    async def resume_capture(
        self, capture_id: str, *, restart_token: str = "", progress: ByteListener = False
    ) -> ActivationCache:
        """The tensors of a capture or generation that was `resumable`, byte for byte."""
        call = requests.resume_capture(capture_id, restart_token=restart_token)
        recovery = Recovery(call, self._retry, capture_id, restarts=bool(restart_token))
        return await self._captured(recovery, "resuming", progress)

    async def get_capture(self, capture_id: str) -> pb.CaptureRecord:
        """State, plan, manifest and time of expiry of what is kept under an id."""
        return await self._unary(requests.get_capture(capture_id))

    async def captures(self) -> list[pb.CaptureRecord]:
        """What the service keeps, oldest first."""
        return await self._unary(requests.captures())

    async def delete_capture(self, capture_id: str) -> None:
        """Removes what is kept under an id."""
        return await self._unary(requests.delete_capture(capture_id))

    async def captured_tensor(self, capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> Array:
        """One tensor of what is kept under an id: of one step and row, (1, ...), without the rest of the stream."""
        state = CapturedTensor()
        parts = self.captured_tensor_bytes(state, capture_id, plan_index, step=step, row=row)
        return state.array([part async for part in parts])

    async def captured_tensor_bytes(
        self,
        state: CapturedTensor,
        capture_id: str,
        plan_index: int,
        *,
        step: int = 0,
        row: int = 0,
        offset_bytes: int = 0,
        length_bytes: int = 0,
    ) -> AsyncGenerator[memoryview, None]:
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
        async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
            async for event in events:
                yield state.feed(event) or memoryview(b"")
        state.finish()
