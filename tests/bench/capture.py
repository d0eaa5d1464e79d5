"""What a capture of a gigabyte costs: memory of the service while its reader is slow, and CPU of both ends.

    python -m tests.bench.capture [--gigabytes 1] [--rounds 3] [--json FILE]

A real service captures the residual stream, attention and MLP outputs of all layers of a random model over one long
prompt, in chunks of the byte budget. The reader is a process of its own, with the SDK's transport; it checks every
tensor and the manifest and keeps nothing.

Memory: the service's resident set, sampled every 50 ms, above what it was after loading and a short capture; first with
a reader as fast as it can be, which gives the engine's own speed, then with one ten times slower than that.

CPU: of both ends, less that of the same forward pass in the same chunks when it sends one position of one layer. It is
an upper bound of what streaming costs: what the captures themselves cost the engine is in it; the streaming alone is in
`tests.bench.wire`. The service's BLAS has one thread, since a second one that waits for work counts as CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.codec import Frame
from neuroscope.wire.frames import FrameReader
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from neuroscope_serving.malloc import tune_malloc
from tests.bench.worker import Worker, answer, cpu_seconds
from tests.support.random_models import make_model
from tests.support.recording import capture_request, prompt
from tests.support.services import Service, inference_service

GB = 1e9
MB = 1e6
GROWTH_BAR_MB = 150
SLOWNESS = 10
COMPONENTS = ("resid_post", "attn_out", "mlp_out")
SAMPLE_S = 0.05
WARM_UP_POSITIONS = 64
# Wide and deep with narrow parts: captures are large beside the arithmetic, as in large models on fast machines.
SHAPE: Mapping[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": True,
}


# The reader's process.


class Reader:
    """Captures, and checks what arrives against its checksums and the manifest."""

    def __init__(self, target: str) -> None:
        self._transport = GrpcTransport(target)

    def read(self, positions: int, layers: int, chunk_positions: int = 0, bytes_per_s: float = 0) -> dict[str, Any]:
        """A capture of so many positions; with chunk_positions one that sends a single position of the last layer."""
        ids = list(itertools.islice(itertools.cycle(range(10, 500)), positions))
        if chunk_positions:  # a selected position counts as nothing: a budget of n bytes is one of n positions
            last = Hook("resid_post", layers - 1, positions=[-1])
            request = capture_request(prompt(ids), last, chunk_budget_bytes=chunk_positions)
        else:
            request = capture_request(prompt(ids), *COMPONENTS)
        begin, cpu_s = time.perf_counter(), cpu_seconds()
        count, chunks = self._read(request, bytes_per_s)
        found = {"bytes": count, "wall_s": time.perf_counter() - begin, "client_cpu_s": cpu_seconds() - cpu_s}
        return {**found, "chunk_positions": chunks}

    def _read(self, request: pb.CaptureRequest, bytes_per_s: float) -> tuple[int, int]:
        """Bytes received, and positions of a chunk."""
        reader: FrameReader | None = None
        manifest: pb.Manifest | None = None
        count, begin = 0, time.perf_counter()
        for event in self._transport.stream(RPCS["Capture"], request):
            if isinstance(event, Frame):
                assert reader is not None
                reader.read(event)
                count += event.nbytes
                if bytes_per_s:
                    time.sleep(max(0.0, begin + count / bytes_per_s - time.perf_counter()))
            elif isinstance(event, pb.CaptureResponse) and event.HasField("plan"):
                reader = FrameReader(event.plan)
            elif isinstance(event, pb.CaptureResponse) and event.HasField("manifest"):
                manifest = event.manifest
        assert reader is not None
        assert manifest is not None
        assert {(e.plan_index, e.row): (e.piece_count, e.length_bytes, e.xxh3_64) for e in manifest.entries} == {
            key: (digest.piece_count, digest.length_bytes, digest.checksum) for key, digest in reader.digests.items()
        }, "the manifest does not account for what was received"
        return count, reader.plan.chunk_positions


# The measuring process.


class Peak:
    """The largest resident set of a service within a block."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.bytes = 0

    @contextmanager
    def watched(self) -> Generator[Peak]:
        """Samples until the end of the block."""
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_S):
                self.bytes = max(self.bytes, self._service.resident_bytes())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


class Measurement:
    """One service, its reader, and the memory that it held before."""

    def __init__(self, service: Service, reader: Worker, positions: int, layers: int) -> None:
        self._service = service
        self._reader = reader
        self._positions = positions
        self._layers = layers
        reader.ask(positions=WARM_UP_POSITIONS, layers=layers)
        self._resident_bytes = service.resident_bytes()

    def read(self, case: str, **how: Any) -> dict[str, Any]:
        """One capture, its time, CPU and growth of memory."""
        cpu_s = self._service.cpu_seconds()
        with Peak(self._service).watched() as peak:
            found = self._reader.ask(positions=self._positions, layers=self._layers, **how)
        return {
            "case": case,
            **found,
            "server_cpu_s": self._service.cpu_seconds() - cpu_s,
            "mb_per_s": found["bytes"] / MB / found["wall_s"],
            "growth_mb": (peak.bytes - self._resident_bytes) / MB,
        }


def run(
    gigabytes: float = 1,
    rounds: int = 3,
    *,
    shape: Mapping[str, Any] = SHAPE,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures one service.

    Args:
        gigabytes: how much the capture carries; the prompt is as long as it takes.
        rounds: of a fast capture and a forward pass alone, after one to warm up; the median counts.
        shape: entries of the random llama's config.json.
        progress: is told what begins.
    """
    layers, width = shape["num_hidden_layers"], shape["hidden_size"]
    positions = round(gigabytes * GB / (len(COMPONENTS) * layers * width * 4))
    with tempfile.TemporaryDirectory(prefix="neuroscope-bench-") as folder:
        progress("a random model")
        model = make_model("llama", Path(folder), **shape)
        with (
            inference_service(model, environment={"OPENBLAS_NUM_THREADS": "1"}) as service,
            Worker("tests.bench.capture", "--read", service.target) as reader,
        ):
            measurement = Measurement(service, reader, positions, layers)
            progress("a fast reader")
            first = measurement.read("fast reader")
            pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
            for index in range(rounds):
                progress(f"a fast reader, round {index + 1} of {rounds}")
                alone = measurement.read("forward pass alone", chunk_positions=first["chunk_positions"])
                pairs.append((alone, measurement.read("fast reader")))
            speed = statistics.median(whole["bytes"] / whole["wall_s"] for _, whole in pairs)
            progress(f"a reader {SLOWNESS} times slower")
            slow = measurement.read("slow reader", bytes_per_s=speed / SLOWNESS)
    costs = [(_cpu_s(whole) - _cpu_s(alone)) * GB / whole["bytes"] for alone, whole in pairs]
    middle = pairs[costs.index(statistics.median_low(costs))]
    return {
        "shape": dict(shape),
        "positions": positions,
        "chunk_positions": first["chunk_positions"],
        "growth_mb": max(case["growth_mb"] for case in (first, slow, *(case for pair in pairs for case in pair))),
        "streaming_cpu_s_per_gb": statistics.median(costs),
        "streaming_cpu_s_per_gb_rounds": costs,
        "cases": [*middle, slow],
    }


def _cpu_s(case: Mapping[str, Any]) -> float:
    return case["client_cpu_s"] + case["server_cpu_s"]


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    shape = result["shape"]
    found = Table(
        title=f"A capture of {result['cases'][-1]['bytes'] / GB:.2f} GB: {result['positions']} positions,"
        f" {'/'.join(COMPONENTS)} of {shape['num_hidden_layers']} layers of width {shape['hidden_size']},"
        f" chunks of {result['chunk_positions']}",
        caption=f"Memory grew by {result['growth_mb']:.0f} MB at most (bar: {GROWTH_BAR_MB})."
        f" Captured, sent, received and checked: {result['streaming_cpu_s_per_gb']:.2f} CPU s/GB of both ends,"
        " without the forward pass",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("case", "MB", "s", "MB/s", "growth MB", "client CPU s", "server CPU s"):
        found.add_column(column, justify="left" if column == "case" else "right")
    for case in result["cases"]:
        found.add_row(
            case["case"],
            f"{case['bytes'] / MB:.0f}",
            f"{case['wall_s']:.1f}",
            f"{case['mb_per_s']:.0f}",
            f"{case['growth_mb']:.0f}",
            f"{case['client_cpu_s']:.2f}",
            f"{case['server_cpu_s']:.2f}",
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        tune_malloc()
        answer(Reader(options.read).read)
        return
    result = run(options.gigabytes, options.rounds)
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
