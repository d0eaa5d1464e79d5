"""neuroscope.cli.processes.span_receiver: a process with its variables sends its spans there."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from neuroscope.cli.processes import span_receiver as receiver_module
from neuroscope.cli.processes.span_receiver import SpanReceiver
from neuroscope.tracing import spantree

CHILD = """
from neuroscope.tracing import telemetry
telemetry.configure("child")
with telemetry.tracer().start_as_current_span("root"):
    with telemetry.tracer().start_as_current_span("leaf"):
        pass
telemetry.shutdown()
"""


def test_spans_of_another_process_arrive(tmp_path: Path):
    import os

    with SpanReceiver() as receiver:
        environment = {**os.environ, **receiver.environment}
        subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True, timeout=60)
        (root,) = spantree.build(receiver.traces())
    assert (root.service, root.name, [child.name for child in root.children]) == ("child", "root", ["leaf"])


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(receiver_module, "MAX_BYTES", 10)
    with SpanReceiver() as receiver:
        url = receiver.environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
        for _ in range(2):
            with urllib.request.urlopen(urllib.request.Request(url, b"\x0a\x00" * 4), timeout=10) as response:
                assert response.status == 200
        assert receiver.dropped_bytes == 8
        assert not receiver.traces().resource_spans
