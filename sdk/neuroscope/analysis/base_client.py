"""Base classes of the clients of the analysis service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from neuroscope.base_client.call import Call, CallFlow, Stream
from neuroscope.base_client.client import AsyncBaseClient, BaseClient
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import AnalysisListener, analysis_listener
from neuroscope.calls import requests
from neuroscope.errors import MLXIntegrationError
from neuroscope.results.result import AnalysisResult, Response
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import ANALYSIS_RPCS
from neuroscope.wire.transport import LOCAL_ANALYSIS

DEFAULT_ANALYSIS_TARGET = "127.0.0.1:50052"
Result = TypeVar("Result", bound=AnalysisResult[Any, Any, Any, Any])


class TraceCalls:
    """Trace methods of the analysis service."""

    @client_method
    def trace(self, trace_id: str) -> Call[bytes]:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`."""
        return requests.trace(trace_id)


class BaseAnalysisClient(TraceCalls, BaseClient):
    """Runs analyses. Its arguments are those of `AnalysisClient`."""

    _service: ClassVar[str] = "analysis"
    _local: ClassVar[str] = LOCAL_ANALYSIS

    def __init__(self, target: str = DEFAULT_ANALYSIS_TARGET, **options: Any) -> None:
        super().__init__(target, **options)

    def run(self, result: Result, progress: AnalysisListener = False) -> Result:
        """Runs the analysis of an empty result. If it fails, `partial` of the error has the results so far."""
        with _kept(result):
            return self._follow(run(result, progress))

    def events(self, result: AnalysisResult[Any, Any, Response, Any]) -> Generator[Response, None, None]:
        """Runs the analysis of an empty result; yields each message after the result has it."""
        return self._stream(events(result))


class AsyncBaseAnalysisClient(TraceCalls, AsyncBaseClient):
    """The asynchronous form."""

    _service: ClassVar[str] = "analysis"
    _local: ClassVar[str] = LOCAL_ANALYSIS

    def __init__(self, target: str = DEFAULT_ANALYSIS_TARGET, **options: Any) -> None:
        super().__init__(target, **options)

    async def run(self, result: Result, progress: AnalysisListener = False) -> Result:
        """Runs the analysis of an empty result. If it fails, `partial` of the error has the results so far."""
        with _kept(result):
            return await self._follow(run(result, progress))

    def events(self, result: AnalysisResult[Any, Any, Response, Any]) -> AsyncGenerator[Response, None]:
        """Runs the analysis of an empty result; yields each message after the result has it."""
        return self._stream(events(result))


def run(result: Result, progress: AnalysisListener) -> CallFlow[Result]:
    """Fills an empty result and returns it."""
    with analysis_listener(progress) as report:
        yield from events(result).each(lambda event: report(event.progress) if event.HasField("progress") else None)
    return result.finish()


def events(result: AnalysisResult[Any, Any, Response, Any]) -> Stream[Response]:
    """The messages of an analysis, after the result has them."""

    def take(event: Event) -> Iterable[Response]:
        message = result.feed(event)
        return () if message is None else (message,)

    rpc = ANALYSIS_RPCS[result.rpc]
    return Stream(rpc.method, rpc, result.request, take)


@contextmanager
def _kept(result: AnalysisResult[Any, Any, Any, Any]) -> Generator[None]:
    """Sets the `partial` of an error if the analysis has started."""
    try:
        yield
    except MLXIntegrationError as error:
        if result.plan is not None:
            error.partial = result
        raise
