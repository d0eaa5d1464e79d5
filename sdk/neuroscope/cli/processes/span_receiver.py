"""A collector of traces in this process: OTLP over HTTP, as far as the services need it.

with SpanReceiver() as receiver:
    ...                                     processes with the variables receiver.environment send their spans here
trace_file.write("trace.json", receiver.traces())
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from neuroscope.tracing import telemetry

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

MAX_BYTES = 256 * 1024 * 1024
"""Spans above this are dropped."""
_SCHEDULE_DELAY_MS = 500


class SpanReceiver:
    """Collects spans while it is entered.

    Attributes:
        dropped_bytes: bytes of spans that found no room.
    """

    def __init__(self) -> None:
        self.dropped_bytes = 0
        self._parts: list[bytes] = []
        self._received_bytes = 0
        self._lock = threading.Lock()
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            """Answers POST /v1/traces. TracesData and ExportTraceServiceRequest have the same bytes."""

            def do_POST(self) -> None:
                receive(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="spans", daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables that make a process send its spans here, and record what begins in it."""
        return {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": str(_SCHEDULE_DELAY_MS),
        }

    def traces(self) -> TracesData:
        """Everything received so far."""
        with self._lock:
            parts = list(self._parts)
        return telemetry.merge(parts)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, body: bytes) -> None:
        with self._lock:
            if self._received_bytes + len(body) > MAX_BYTES:
                self.dropped_bytes += len(body)
                return
            self._received_bytes += len(body)
            self._parts.append(body)
