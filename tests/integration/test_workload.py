"""What a service says of its load: over gRPC, and to a collector.

python -m pytest tests/integration/test_workload.py
"""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from neuroscope.client import Client
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1.telemetry_pb2 import GetWorkloadResponse
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support.following import Follower
from tests.support.recording import generate_request, prompt, record
from tests.support.services import Service, inference_service

IDS = [0, 50, 60, 70]
BUDGET_BYTES = 10**9


@pytest.fixture(scope="module")
def exported() -> Iterator[tuple[str, list[bytes]]]:
    """A collector: its URL, and what it has got."""
    received: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                received.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def service(llama_dir: Path, exported: tuple[str, list[bytes]]) -> Iterator[Service]:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": exported[0], "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    arguments = ("--model-memory-bytes", str(BUDGET_BYTES))
    with inference_service(llama_dir, arguments=arguments, environment=environment) as service:
        yield service


def numbers(body: bytes) -> dict[str, Any]:
    """The metrics of one export: the value of each, of a histogram its count."""
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    values: dict[str, Any] = {}
    for metric in resource.scope_metrics[0].metrics:
        kind = str(metric.WhichOneof("data"))
        (point,) = getattr(metric, kind).data_points
        values[metric.name] = point.count if kind == "histogram" else point.as_int
    return values


def test_the_load_is_that_of_the_moment(service: Service, exported: tuple[str, list[bytes]]) -> None:
    transport = GrpcTransport(service.target)
    with Client(service.target) as client:
        idle = client.workload()
        assert (idle.streams, idle.decoding_rows, idle.generated_tokens, idle.captured_bytes) == (0, 0, 0, 0)
        assert idle.weights_bytes == client.models()[0].weights_bytes
        assert idle.weights_budget_bytes == BUDGET_BYTES
        assert idle.weights_bytes <= idle.active_memory_bytes <= idle.peak_memory_bytes

        request = generate_request(
            [prompt(IDS)] * 2, "resid_post.0", max_tokens=20, ignore_eos=True, max_steps_ahead=2, generation_id="one"
        )
        running = Follower(transport, request)
        for _ in range(4):
            assert running.next_token() is not None
        busy = client.workload()
        assert (busy.streams, busy.decoding_rows, busy.generated_tokens) == (1, 2, 4)
        assert busy.captured_bytes == 2 * (len(IDS) + 1) * 128 * 4
        assert busy.queue_wait_ms > 0
        deadline = time.monotonic() + 20
        while not exported[1] or numbers(exported[1][-1])["neuroscope.generated_tokens"] < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sent = numbers(exported[1][-1])
        assert {f"neuroscope.{name}" for name in GetWorkloadResponse.DESCRIPTOR.fields_by_name} == (
            set(sent) - {"neuroscope.queue_wait"} | {"neuroscope.queue_wait_ms"}
        )
        assert (sent["neuroscope.streams"], sent["neuroscope.decoding_rows"]) == (1, 2)
        assert sent["neuroscope.weights_bytes"] == busy.weights_bytes
        assert sent["neuroscope.queue_wait"] == 2  # the load of the model, and this

        transport.unary(RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id="one", steps=100))
        running.wait()
        record(transport, generate_request(prompt(IDS), max_tokens=5, ignore_eos=True))
        deadline = time.monotonic() + 5
        while (after := client.workload()).streams:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (after.decoding_rows, after.generated_tokens) == (0, 45)
    transport.close()
