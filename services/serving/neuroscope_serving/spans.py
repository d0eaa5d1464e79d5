"""The span of one call at a server."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from neuroscope.tracing import telemetry
from neuroscope.wire.rpc import Rpc

Metadata: TypeAlias = "Iterable[tuple[str, str | bytes]]"
"""Metadata of a call."""


@contextmanager
def server_span(rpc: Rpc, metadata: Metadata) -> Generator[Context, None, None]:
    """A span for one call, as a context to pass on. It never becomes the current span, since streams change tasks."""
    span = telemetry.tracer().start_span(rpc.method, telemetry.extract(metadata), SpanKind.SERVER)
    try:
        yield trace.set_span_in_context(span)
    except (asyncio.CancelledError, GeneratorExit):
        span.set_status(Status(StatusCode.ERROR, "cancelled"))
        raise
    except Exception as error:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))
        raise
    finally:
        span.end()
