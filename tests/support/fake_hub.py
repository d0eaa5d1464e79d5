"""A Hugging Face hub on loopback with the repository `someone/model`, as slow as a test wants it.

with serving_hub(folder) as hub:
    running(..., environment=hub.environment(tmp_path))
    hub.asked.wait()          somebody has come
    hub.is_open.set()         until here nobody was answered
"""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = "someone/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PIECE_BYTES = 16 * 1024


class Hub:
    """The state of a running hub."""

    def __init__(self, folder: Path) -> None:
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.url = ""
        self.asked = threading.Event()
        """The first request has come."""
        self.sending = threading.Event()
        """A piece of the weights has left."""
        self.is_open = threading.Event()
        """Until it is set, requests wait."""
        self.pause_s = 0.0
        """Between two pieces of the weights."""
        self.closed = threading.Event()

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that make a service fetch from here, into that folder."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*"}

    def listing(self) -> list[dict[str, object]]:
        """The files as the hub's API lists them."""
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files.items()
        ]


@contextmanager
def serving_hub(folder: Path) -> Generator[Hub]:
    """A hub with the files of a folder; nobody is answered before `is_open` is set."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(has_body=True)

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def _answer(self, *, has_body: bool) -> None:
            hub.asked.set()
            while not (hub.is_open.wait(0.05) or hub.closed.is_set()):
                pass
            path = self.path.partition("?")[0]
            if path == f"/api/models/{REPOSITORY}/revision/main":
                self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode(), has_body)
            elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                self._send(json.dumps(hub.listing()).encode(), has_body)
            elif (name := path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")) in hub.files:
                self._send(hub.files[name], has_body, is_slow=name.endswith(".safetensors"))
            else:
                self.send_error(404)

        def _send(self, body: bytes, has_body: bool, *, is_slow: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked has gone
                for first in range(0, len(body) if has_body else 0, _PIECE_BYTES):
                    self.wfile.write(body[first : first + _PIECE_BYTES])
                    if is_slow:
                        hub.sending.set()
                        hub.closed.wait(hub.pause_s)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="fake-hub", daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
