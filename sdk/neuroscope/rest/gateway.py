"""HTTP to a gateway: requests that are tried again while nobody answers; answers as JSON, as lines and as bytes.

It knows nothing of hooks and activations, and raises only errors of `neuroscope.errors`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from neuroscope.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    StreamingError,
)
from neuroscope.rest import errors
from neuroscope.tracing import telemetry

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""How often a request is sent before nobody answering is an error; the pauses are 0.2, 0.4 and 0.8 s."""
_FIRST_PAUSE_S = 0.2
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
T = TypeVar("T")


class GatewayConnection:
    """A connection pool to one gateway. Thread-safe.

    Args:
        base_url: such as http://127.0.0.1:8080.
        timeout_s: for connecting, and for every wait for bytes of an answer.
        api_key: one of the gateway's keys; empty: it asks for none.

    Raises:
        InvalidRequestError: the URL is none of HTTP, the time is not positive, or no header carries the key.
    """

    def __init__(self, base_url: str, timeout_s: float, api_key: str = "") -> None:
        self.base_url = check_url(base_url)
        if not timeout_s > 0:
            raise InvalidRequestError(f"a timeout is positive, not {timeout_s!r} s", field="timeout")
        if not (api_key.isascii() and api_key.isprintable()):
            raise InvalidRequestError("a key is of printable ASCII characters", field="api_key")
        self._timeout_s = timeout_s
        # A proxy of the environment has no way to this machine's loopback.
        proxied = urlsplit(base_url).hostname not in _LOOPBACK
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout_s, headers=headers, trust_env=proxied)

    def close(self) -> None:
        """Frees the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        idempotent: bool = True,
        wait_forever: bool = False,
    ) -> Any:
        """One request, one answer in JSON.

        Args:
            method, path, body, query: of the request; the body is sent as JSON.
            idempotent: asking twice does no harm, so that a connection that broke is no reason to give up.
            wait_forever: waits for the answer without a limit.

        Raises:
            NeuroScopeIntegrationError: nobody answers, or somebody other than a gateway.
            DeadlineExceededError: the answer took longer than the timeout.
            StreamingError: the connection broke, and the request is not `idempotent`.
            MLXIntegrationError: the gateway's own errors.
        """
        limits = httpx.Timeout(self._timeout_s, read=None) if wait_forever else httpx.Timeout(self._timeout_s)

        def once() -> bytes:
            with self._translated():
                response = self._http.request(
                    method, path, content=_encoded(body), headers=_headers(body), timeout=limits, params=query
                )
            if response.is_error:
                raise errors.from_response(response.status_code, response.content, str(response.url))
            return response.content

        with telemetry.tracer().start_as_current_span(f"{method} {path}", kind=SpanKind.CLIENT) as span:
            content = _retrying(once, idempotent)
            span.set_attribute("http.request.method", method)
        try:
            return json.loads(content)
        except ValueError:
            raise _stranger(self.base_url) from None

    def stream_lines(self, path: str, body: Any) -> Generator[Any, None, None]:
        """The objects of an answer of newline-delimited JSON, as they come; closing the generator ends the request.

        Raises:
            StreamingError: the stream broke off.
            and what `request` raises.
        """
        span = telemetry.tracer().start_span(f"POST {path}", kind=SpanKind.CLIENT)

        def once() -> httpx.Response:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False), self._translated():
                request = self._http.build_request("POST", path, content=_encoded(body), headers=_headers(body))
                response = self._http.send(request, stream=True)
                if response.is_error:
                    response.read()
            if response.is_error:
                raise errors.from_response(response.status_code, response.content, str(response.url))
            return response

        with ExitStack() as stack:
            stack.callback(span.end)
            response = _retrying(once, idempotent=True)
            stack.callback(response.close)
            with self._translated():
                for line in _split(response):
                    try:
                        told = json.loads(line)
                    except ValueError:
                        raise _stranger(self.base_url) from None
                    if errors.is_error(told):
                        raise errors.from_body(told)
                    yield told

    def download(
        self, path: str, query: Mapping[str, Any], first_byte: int = 0, length_bytes: int | None = None
    ) -> tuple[Mapping[str, str], bytearray]:
        """The bytes of a resource, or a range of them, and the headers of the answer that they began with.

        Where the connection breaks, what is missing is asked for, as long as the resource is the same (ETag).

        Raises:
            StreamingError: the connection broke every time.
            and what `request` raises.
        """
        received = bytearray()
        began: Mapping[str, str] = {}

        def once() -> None:
            nonlocal began
            missing = None if length_bytes is None else length_bytes - len(received)
            headers = _range(first_byte + len(received), missing) | dict(telemetry.inject())
            if received:
                headers["If-Range"] = began["etag"]
            with self._translated(), self._http.stream("GET", path, params=query, headers=headers) as response:
                if response.is_error:
                    raise errors.from_response(response.status_code, response.read(), str(response.url))
                if "etag" not in response.headers:
                    raise _stranger(self.base_url)
                if not received:
                    began = response.headers
                elif response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    received.clear()
                    raise StreamingError("the resource changed while it was read")
                for part in response.iter_raw():
                    received.extend(part)

        with telemetry.tracer().start_as_current_span(f"GET {path}", kind=SpanKind.CLIENT):
            _retrying(once, idempotent=True)
        return began, received

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                told = f"no connection to {self.base_url} within {self._timeout_s:g} s"
                raise _NotSentError(NeuroScopeIntegrationError(told)) from None
            raise DeadlineExceededError(
                f"{self.base_url} sent nothing for {self._timeout_s:g} s; give the client a longer timeout",
                field="timeout",
            ) from None
        except httpx.ConnectError as error:
            told = f"no gateway answers at {self.base_url}: {error}. Start one: neuroscope up"
            raise _NotSentError(NeuroScopeIntegrationError(told)) from None
        except httpx.TransportError as error:
            raise StreamingError(f"the connection to {self.base_url} broke: {error}") from None


class _NotSentError(Exception):
    """Within this file: the error of a request that never arrived, which may always be sent again."""

    def __init__(self, error: MLXIntegrationError) -> None:
        super().__init__(error)
        self.error = error


def check_url(url: str) -> str:
    """A gateway's URL, without a slash at its end.

    Raises:
        InvalidRequestError: it is none of HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequestError(f"{url!r} is no URL such as http://127.0.0.1:8080", field="base_url")
    return url.rstrip("/")


def _retrying(once: Callable[[], T], idempotent: bool) -> T:
    def again(error: BaseException) -> bool:
        if isinstance(error, _NotSentError):
            return True
        return idempotent and isinstance(error, StreamingError | NeuroScopeIntegrationError)

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.info("attempt %d of %d failed: %s", state.attempt_number, ATTEMPTS, error)

    retrying = Retrying(
        retry=retry_if_exception(again),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=_FIRST_PAUSE_S, min=_FIRST_PAUSE_S),
        before_sleep=say,
        reraise=True,
    )
    try:
        return retrying(once)
    except _NotSentError as failed:
        raise failed.error from None


def _stranger(base_url: str) -> MLXIntegrationError:
    return NeuroScopeIntegrationError(f"what answers at {base_url} is no gateway of NeuroScope-MLX")


def _split(response: httpx.Response) -> Generator[bytes, None, None]:
    """Lines of a body. httpx would break them at U+2028 and U+0085 as well, which JSON leaves in texts."""
    parts: list[bytes] = []
    for chunk in response.iter_bytes():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            parts.append(end)
            if line := b"".join(parts):
                yield line
            parts.clear()
        parts.append(rest)
    if line := b"".join(parts):
        yield line


def _encoded(body: Any) -> bytes | None:
    try:
        return None if body is None else json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the request is no JSON: {error}") from None


def _range(first_byte: int, length_bytes: int | None) -> dict[str, str]:
    if first_byte == 0 and length_bytes is None:
        return {}
    last = "" if length_bytes is None else first_byte + length_bytes - 1
    return {"Range": f"bytes={first_byte}-{last}"}


def _headers(body: Any) -> dict[str, str]:
    told = dict(telemetry.inject())
    return told if body is None else told | {"Content-Type": "application/json"}
