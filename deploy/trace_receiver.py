"""A collector of traces for one machine: OTLP over HTTP in, a page and a file for Perfetto for each trace out.

    python deploy/trace_receiver.py --folder traces        listens on 127.0.0.1:4318

POST /v1/traces takes spans, GET / lists the traces. Metrics are accepted and dropped.
"""

from __future__ import annotations

import argparse
import gzip
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from urllib.request import ProxyHandler, build_opener

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from neuroscope.tracing import telemetry, trace_file

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_TRACES = 500
MAX_TRACE_BYTES = 32 * 1024 * 1024
WRITE_EVERY_S = 1.0
HOSTS = ("127.0.0.1", "localhost", "traces")
"""Names under which it answers; a page of another name reads no trace."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}


class Traces:
    """The newest traces, in memory and as files.

    Args:
        folder: where TRACE_ID.html and TRACE_ID.json go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: OrderedDict[str, list[bytes]] = OrderedDict()
        self._fresh: set[str] = set()
        self._lock = threading.Lock()

    def add(self, body: bytes) -> None:
        """Takes spans in.

        Raises:
            google.protobuf.message.DecodeError: they are none.
        """
        for trace_id, part in _by_trace(TracesData.FromString(body)):
            with self._lock:
                parts = self._parts.setdefault(trace_id, [])
                if sum(map(len, parts)) + len(part) <= MAX_TRACE_BYTES:
                    parts.append(part)
                self._parts.move_to_end(trace_id)
                self._fresh.add(trace_id)

    def write(self) -> None:
        """Writes what came since, and removes the oldest beyond MAX_TRACES."""
        with self._lock:
            fresh = {trace_id: list(self._parts[trace_id]) for trace_id in self._fresh if trace_id in self._parts}
            self._fresh.clear()
            gone = [self._parts.popitem(last=False)[0] for _ in range(len(self._parts) - MAX_TRACES)]
        for trace_id, parts in fresh.items():
            trace_file.write(self.folder / f"{trace_id}.json", telemetry.merge(parts))
        for trace_id in gone:
            for ending in _TYPES:
                (self.folder / f"{trace_id}{ending}").unlink(missing_ok=True)

    def page(self) -> str:
        """The list of traces, newest first."""
        files = sorted(self.folder.glob("*.html"), key=lambda file: file.stat().st_mtime, reverse=True)
        rows = "".join(
            f"<li><a href='/{name}.html'>{name}</a> <a href='/{name}.json'>for Perfetto</a>"
            for name in (escape(file.stem) for file in files)
        )
        return f"<!doctype html><meta charset=utf-8><title>traces</title><h1>Traces</h1><ul>{rows}</ul>"


def handler(traces: Traces) -> type[BaseHTTPRequestHandler]:
    """What answers requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY_BYTES:
                self.answer(413)
                return
            body = self.rfile.read(length)
            if self.path != "/v1/traces":
                self.answer(200 if self.path == "/v1/metrics" else 404)
                return
            try:
                traces.add(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            except Exception:  # whatever protobuf and gzip raise of bytes that are no spans
                self.answer(400)
            else:
                self.answer(200)

        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").rpartition(":")[0].lower() not in HOSTS:
                self.answer(403)
                return
            if self.path in ("/", "/health"):
                self.answer(200, traces.page().encode(), _TYPES[".html"])
                return
            file = traces.folder / Path(self.path).name
            if file.suffix in _TYPES and file.is_file():
                self.answer(200, file.read_bytes(), _TYPES[file.suffix])
            else:
                self.answer(404)

        def answer(self, status: int, body: bytes = b"", kind: str = "application/x-protobuf") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def main() -> int:
    """Receives until SIGTERM; with --probe asks a receiver for a sign of life."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4318)
    parser.add_argument("--folder", type=Path, default=Path("traces"))
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_args()
    if options.probe:
        try:
            with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{options.port}/health", timeout=3):
                return 0
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    traces = Traces(options.folder)
    server = ThreadingHTTPServer((options.host, options.port), handler(traces))
    server.daemon_threads = True
    stop = threading.Event()

    def ending(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ending)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"trace-receiver ready on http://{options.host}:{server.server_port}", flush=True)
    while not stop.wait(WRITE_EVERY_S):
        traces.write()
    server.shutdown()
    traces.write()
    return 0


def _by_trace(data: TracesData) -> Iterable[tuple[str, bytes]]:
    """The spans of each trace by themselves."""
    split: dict[str, TracesData] = {}
    for resource in data.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                trace_id = span.trace_id.hex()
                part = split.setdefault(trace_id, TracesData())
                to = part.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
                to.scope_spans.add(scope=scope.scope, spans=[span])
    return [(trace_id, part.SerializeToString()) for trace_id, part in split.items()]


if __name__ == "__main__":
    sys.exit(main())
