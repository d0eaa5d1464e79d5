"""A real browser, headless: it opens a page of an origin of the test's choice, whose script reports what it saw.

with origin(page) as site:                    serves the page, and takes its report
    site.open_in(find_browser())              dict
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
_TIMEOUT_S = 60.0
# Without its own traffic, profile and first-run pages; --no-sandbox, since root has no user namespace to put it in.
_FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    " --disable-sync --disable-default-apps --disable-dev-shm-usage --no-proxy-server"
).split()


def find_browser() -> str | None:
    """The program; None where there is none. NEUROSCOPE_TEST_BROWSER names another."""
    named = os.environ.get("NEUROSCOPE_TEST_BROWSER")
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    return named or found or (str(_MAC) if _MAC.exists() else None)


@dataclass(frozen=True, slots=True)
class Site:
    """A page that is served."""

    port: int
    reports: Queue[dict[str, Any]]

    def open_in(self, browser: str, host: str = "localhost") -> dict[str, Any]:
        """What the page's script posts to /report, once a browser has opened the page under a host name.

        Raises:
            AssertionError: it posted nothing in time; with what the browser wrote.
        """
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        with tempfile.TemporaryDirectory(prefix="neuroscope-browser-", ignore_cleanup_errors=True) as profile:
            command = [browser, *_FLAGS, *sandbox, f"--user-data-dir={profile}", f"http://{host}:{self.port}/"]
            log = Path(profile) / "log"
            with log.open("wb") as output:
                # A session of its own, so that what the browser starts can be ended with it.
                process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            try:
                return self.reports.get(timeout=_TIMEOUT_S)
            except Empty:
                raise AssertionError(f"the page reported nothing\n{log.read_text(errors='replace')}") from None
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def origin(page: str) -> Generator[Site]:
    """An HTTP server of a page, on a free port of loopback: an origin of its own."""
    reports: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_page = self.path == "/"
            body = page.encode() if is_page else b""
            self.send_response(200 if is_page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Site(server.server_address[1], reports)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
