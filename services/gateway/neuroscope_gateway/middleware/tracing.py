"""Server spans of requests."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope.tracing import telemetry


class TracingMiddleware:
    """Starts a span for each request that ends with its response, continues the caller's trace (`traceparent`), and
    sets `x-request-id`.

    The request id is the trace id, which `GET /v1/traces/{trace_id}` takes if the trace is recorded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method: str = scope["method"]
        attributes: dict[str, Any] = {"http.request.method": method, "url.path": scope["path"], "url.scheme": "http"}
        with telemetry.tracer().start_as_current_span(
            method,
            context=telemetry.extract(Headers(scope=scope).items()),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        ) as span:
            context = span.get_span_context()
            request_id = trace.format_trace_id(context.trace_id) if context.is_valid else uuid.uuid4().hex

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(trace.StatusCode.ERROR, f"status {status}")
                    MutableHeaders(scope=message)["x-request-id"] = request_id
                await send(message)

            try:
                await self.app(scope, receive, sending)
            except asyncio.CancelledError:  # the shutdown timeout expired
                span.set_status(trace.StatusCode.ERROR, "cancelled")
                raise
            finally:
                route = getattr(scope.get("route"), "path", None)  # known after routing
                if route is not None:
                    span.set_attribute("http.route", route)
                    span.update_name(f"{method} {route}")
