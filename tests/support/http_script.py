"""An HTTP server on a loopback port that answers as it is told, for what a real gateway does not do on demand.

with http_script(Answer(503, b"..."), Answer(200, b"{}")) as script:
    script.url, script.requests
"""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int = 200
    body: bytes = b"{}"
    cut: int = 0
    """Promises this many bytes more than it sends, and hangs up."""
    silent_s: float = 0
    """Waits so long before it answers."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Headers besides type and length."""


@dataclass(slots=True)
class HttpScript:
    """A running server."""

    url: str
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, path and body of what was asked so far."""
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    """Headers of each."""


@contextmanager
def http_script(*answers: Answer, port: int = 0) -> Generator[HttpScript]:
    """A server that gives these answers in turn, the last one for ever."""
    left = list(answers)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            script.requests.append((self.command, self.path, self.rfile.read(length)))
            script.headers.append(dict(self.headers))
            answer = left.pop(0) if len(left) > 1 else left[0]
            ended.wait(answer.silent_s)
            with suppress(OSError):  # the client may have gone
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.body) + answer.cut))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)
            if answer.cut:
                self.close_connection = True

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    script = HttpScript(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
