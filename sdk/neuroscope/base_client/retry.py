"""Retries: when a call is repeated, and with which request. This module does no I/O.

    recovery = CaptureRetry(call, retry, capture_id)
    for attempt in recovery.attempts():
        with attempt:
            feed(recovery.state, recovery.call)

Stored streams are safe to request again, since the id identifies the request. Other captures are repeated only if bytes
were corrupted in transit, since a capture has no side effects. Invalid requests are never retried.
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
    """The retry policy of idempotent calls."""

    attempts: int = 5
    """Maximum number of attempts, including the first; 1: no retries."""
    first_pause_s: float = 0.2
    """Pause before the second attempt. It doubles with every attempt, plus random jitter."""
    longest_pause_s: float = 5.0
    """Maximum pause."""
    recaptures: int = 1
    """Maximum number of retries after corrupted bytes."""

    def pause_s(self, attempt: int) -> float:
        """The pause after an attempt, counted from 1."""
        doubled = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(attempt - 1, 32))
        return doubled + random.uniform(0, self.first_pause_s)


class CaptureRetry:
    """A capture with its retries.

    Args:
        call: the first call.
        retry: the policy.
        capture_id: id under which the service stores the stream; empty: it does not.
        restarts: whether the service runs an incomplete capture again.

    Attributes:
        call: the next call.
        state: receives the events.
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
        """The attempts in turn."""
        from tenacity import Retrying

        return Retrying(**self._policy())

    def async_attempts(self) -> AsyncRetrying:
        """The asynchronous form."""
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
                return self._failures > 0  # the service completed or lost the earlier attempt
            case _:
                return False

    def _plan(self, attempt: RetryCallState) -> None:
        """Chooses the next call."""
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
            case InvalidRequestError():  # it is still running, or complete by now
                self._ask(self._resumption())
            case UnknownIdError() | IdTakenError():
                self._ask(self._first_call)
            case _ if began and self.state.is_sound:
                self.call = resume_call(self._capture_id, sequence=self.state.resume())
            case _:
                self._ask(self._resumption() if began else self._first_call)

    def _ask(self, call: Call[None]) -> None:
        """Requests the whole stream again and discards received data."""
        self.call = call
        self.state = StreamState()

    def _resumption(self) -> Call[None]:
        return resume_call(self._capture_id)


class GenerationRetry:
    """A resumable generation with its retries.

    Two runs are never spliced, so it continues only if the service has completed the stream.

    Args:
        call: the generation.
        retry: the policy.
    """

    def __init__(self, call: Call[None], retry: Retry) -> None:
        self._call = call
        self._retry = retry
        self._failures = 0

    def after(self, error: BaseException, state: StreamState) -> tuple[Call[None], float] | None:
        """The next call and the pause before it in seconds; None: the error is final."""
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
    """ResumeCapture, from frame `sequence` on. `StreamState` receives its events."""
    request = pb.ResumeCaptureRequest(capture_id=capture_id, sequence=sequence, restart_token=restart_token)
    return Call("resume_capture", RPCS["ResumeCapture"], request, lambda response: None)
