"""Running analyses: what every client of the analysis service has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing, contextmanager
from typing import Any, ClassVar, TypeVar

from neuroscope import requests
from neuroscope.analysis.progress import AnalysisListener, analysis_listener
from neuroscope.analysis.result import AnalysisResult, Response
from neuroscope.calling import AsyncCaller, Caller
from neuroscope.errors import MLXIntegrationError
from neuroscope.rpc import ANALYSIS_RPCS
from neuroscope.transport import LOCAL_ANALYSIS

Result = TypeVar("Result", bound=AnalysisResult[Any, Any, Any, Any])


class AnalysisRunner(Caller):
    """Runs what empty results ask for."""

    _service: ClassVar[str] = "analysis"
    _local: ClassVar[str] = LOCAL_ANALYSIS

    def run(self, result: Result, progress: AnalysisListener = False) -> Result:
        """Runs the analysis that an empty result asks for, to its end; `partial` of an error is what there is of it."""
        with _kept(result), analysis_listener(progress) as report, closing(self.events(result)) as events:
            for event in events:
                if event.HasField("progress"):
                    report(event.progress)
        return result.finish()

    def events(self, result: AnalysisResult[Any, Any, Response, Any]) -> Generator[Response, None, None]:
        """Runs the analysis that an empty result asks for; every message as it comes, once the result holds it."""
        rpc = ANALYSIS_RPCS[result.rpc]
        with self._span(rpc.method), closing(self._transport.stream(rpc, result.request)) as events:
            for event in events:
                if (message := result.feed(event)) is not None:
                    yield message

    def trace(self, trace_id: str) -> bytes:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`."""
        return self._unary(requests.trace(trace_id))


class AsyncAnalysisRunner(AsyncCaller):
    """The same on an event loop."""

    _service: ClassVar[str] = "analysis"
    _local: ClassVar[str] = LOCAL_ANALYSIS

    async def run(self, result: Result, progress: AnalysisListener = False) -> Result:
        """Runs the analysis that an empty result asks for, to its end; `partial` of an error is what there is of it."""
        with _kept(result), analysis_listener(progress) as report:
            async with aclosing(self.events(result)) as events:
                async for event in events:
                    if event.HasField("progress"):
                        report(event.progress)
        return result.finish()

    async def events(self, result: AnalysisResult[Any, Any, Response, Any]) -> AsyncGenerator[Response, None]:
        """Runs the analysis that an empty result asks for; every message as it comes, once the result holds it."""
        async with aclosing(self._transport.stream(ANALYSIS_RPCS[result.rpc], result.request)) as events:
            async for event in events:
                if (message := result.feed(event)) is not None:
                    yield message

    async def trace(self, trace_id: str) -> bytes:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`."""
        return await self._unary(requests.trace(trace_id))


@contextmanager
def _kept(result: AnalysisResult[Any, Any, Any, Any]) -> Generator[None]:
    """Gives an error what there is of the result, where the analysis had begun."""
    try:
        yield
    except MLXIntegrationError as error:
        if result.plan is not None:
            error.partial = result
        raise
