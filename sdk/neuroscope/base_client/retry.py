"""When a call is made again, and what is asked for then. Does no input or output itself.

    recovery = CaptureRetry(call, retry, capture_id)
    for attempt in recovery.attempts():
        with attempt:
            feed(recovery.state, recovery.call)

What a service keeps is safe to ask for again: the id says that it is the same request. Everything else is asked for
again only where its bytes were changed on the way, since a capture has no effect but its tensors. Mistakes of the
user's are never tried twice.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuroscope.activations.stream import StreamState, warn
from neuroscope.base_client.call import Call
from neuroscope.errors import (
    ChecksumError,
    IdTakenError,
    InvalidRequestError,
    NeuroScopeIntegrationError,
    StreamingError,
    UnknownIdError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.rpc import RPCS

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState, Retrying

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a client tries again what is safe to try again."""

    attempts: int = 5
    """Attempts in all, the first one included; 1: never again."""
    first_pause_s: float = 0.2
    """Before the second attempt; each further pause is twice as long, and a random part of this is added to each."""
    longest_pause_s: float = 5.0
    """Longest pause."""
    recaptures: int = 1
    """How often bytes that were changed on the way are asked for again."""

    def pause_s(self, attempt: int) -> float:
        """The pause behind an attempt, counted from 1."""
        doubled = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(attempt - 1, 32))
        return doubled + random.uniform(0, self.first_pause_s)


class CaptureRetry:
    """One capture, over as many attempts as it takes.

    Args:
        call: the first thing to ask for.
        retry: how often.
        capture_id: under which the service keeps it; empty: it does not.
        restarts: whether the service is to run it again, if it broke off before it was whole.

    Attributes:
        call: what to ask for next.
        state: what takes the answer in.
    """

    def __init__(self, call: Call[None], retry: Retry, capture_id: str = "", *, restarts: bool = True) -> None:
        self.call = call
        self.state = StreamState()
        self._first_call = call
        self._retry = retry
        self._capture_id = capture_id
        self._restarts = restarts
        self._recaptures = 0
        self._failures = 0

    def attempts(self) -> Retrying:
        """The attempts, one after the other."""
        from tenacity import Retrying

        return Retrying(**self._policy())

    def async_attempts(self) -> AsyncRetrying:
        """The same on an event loop."""
        from tenacity import AsyncRetrying

        return AsyncRetrying(**self._policy())

    def _policy(self) -> dict[str, Any]:
        from tenacity import retry_if_exception, stop_after_attempt

        return {
            "stop": stop_after_attempt(max(1, self._retry.attempts)),
            "wait": self._pause_s,
            "retry": retry_if_exception(self._is_safe),
            "before_sleep": self._plan,
            "reraise": True,
        }

    def _pause_s(self, attempt: RetryCallState) -> float:
        return self._retry.pause_s(attempt.attempt_number)

    def _is_safe(self, error: BaseException) -> bool:
        match error:
            case ChecksumError():
                return self._recaptures < self._retry.recaptures
            case _ if not self._capture_id:
                return False
            case StreamingError(restart_token=token) if token:
                return self._restarts
            case NeuroScopeIntegrationError() | StreamingError():
                return True
            case UnknownIdError(field="capture_id") | IdTakenError() | InvalidRequestError(field="restart_token"):
                return self._failures > 0  # the service saw the earlier attempt otherwise than the client did
            case _:
                return False

    def _plan(self, attempt: RetryCallState) -> None:
        """Decides what to ask for after the pause."""
        error = attempt.outcome.exception() if attempt.outcome is not None else None
        assert error is not None
        self._failures += 1
        _log.info("attempt %d failed, another follows: %s", attempt.attempt_number, error)
        began = self.state.started is not None
        match error:
            case ChecksumError():
                self._recaptures += 1
                how = "sent again from what the service keeps" if self._capture_id and began else "captured again"
                warn([f"{error}; it is {how}"])
                self._ask(self._resumption() if self._capture_id and began else self._first_call)
            case StreamingError(restart_token=token) if token:
                self._ask(resume_call(self._capture_id, restart_token=token))
            case InvalidRequestError():  # it was not broken off yet, or is whole by now
                self._ask(self._resumption())
            case UnknownIdError() | IdTakenError():
                self._ask(self._first_call)
            case _ if began and self.state.is_sound:
                self.call = resume_call(self._capture_id, sequence=self.state.resume())
            case _:
                self._ask(self._resumption() if began else self._first_call)

    def _ask(self, call: Call[None]) -> None:
        """Asks for the whole stream, and forgets what came of it."""
        self.call = call
        self.state = StreamState()

    def _resumption(self) -> Call[None]:
        return resume_call(self._capture_id)


class GenerationRetry:
    """One generation whose stream the service keeps, taken up where it broke.

    A second run is never spliced to the first, so it goes on only if the service had come to the end.

    Args:
        call: the generation.
        retry: how often.
    """

    def __init__(self, call: Call[None], retry: Retry) -> None:
        self._call = call
        self._retry = retry
        self._failures = 0

    def after(self, error: BaseException, state: StreamState) -> tuple[Call[None], float] | None:
        """What to ask for next, and the pause in seconds before it; None: the error is final."""
        broken = isinstance(error, NeuroScopeIntegrationError | StreamingError) and not isinstance(error, ChecksumError)
        taken = isinstance(error, IdTakenError) and self._failures > 0
        self._failures += 1
        if not (broken or taken) or not state.is_sound or self._failures >= self._retry.attempts:
            return None
        _log.info("attempt %d failed, another follows: %s", self._failures, error)
        pause_s = self._retry.pause_s(self._failures)
        if state.started is None:
            return self._call, pause_s
        return resume_call(state.started.stream_id, sequence=state.resume()), pause_s


def resume_call(capture_id: str, *, sequence: int = 0, restart_token: str = "") -> Call[None]:
    """ResumeCapture, from frame `sequence` on. `StreamState` takes in its events."""
    request = pb.ResumeCaptureRequest(capture_id=capture_id, sequence=sequence, restart_token=restart_token)
    return Call("resume_capture", RPCS["ResumeCapture"], request, lambda response: None)
