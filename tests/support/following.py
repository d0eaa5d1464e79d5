"""A generation that is read on a thread of its own, so that a test can look at what has come and what has not."""

import queue
import threading

from neuroscope.errors import MLXIntegrationError
from neuroscope.v1 import inference_pb2 as pb
from tests.support.recording import Recording, StreamingTransport, rpc_of

QUIET_S = 0.25
"""How long nothing must come for a test to say that nothing comes."""


class Follower:
    """A running stream. `recording` fills up as its events come; `error` is what ended it, if anything did."""

    def __init__(self, transport: StreamingTransport, request: pb.GenerateRequest | pb.CaptureRequest) -> None:
        self.recording = Recording()
        self.error: MLXIntegrationError | None = None
        self._tokens: queue.Queue[pb.TokenEvent | None] = queue.Queue()
        self._stream = transport.stream(rpc_of(request), request, timeout_s=120)
        self._thread = threading.Thread(target=self._read, name="follower", daemon=True)
        self._thread.start()

    def next_token(self, timeout_s: float = 30) -> pb.TokenEvent | None:
        """The next token, None at the end of the stream.

        Raises:
            queue.Empty: none came in time.
        """
        return self._tokens.get(timeout=timeout_s)

    def is_quiet(self) -> bool:
        """Whether no further token comes for a while."""
        try:
            self._tokens.get(timeout=QUIET_S)
        except queue.Empty:
            return True
        return False

    def wait(self, timeout_s: float = 60) -> Recording:
        """The whole recording.

        Raises:
            MLXIntegrationError: what the stream ended with.
        """
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the stream did not end"
        if self.error is not None:
            raise self.error
        return self.recording

    def close(self) -> None:
        """Leaves in the middle: cancels the call."""
        self._stream.close()
        self._thread.join(30)

    def _read(self) -> None:
        try:
            for event in self._stream:
                token = self.recording.add(event)
                if token is not None:
                    self._tokens.put(token)
        except MLXIntegrationError as error:
            self.error = error
        self._tokens.put(None)
