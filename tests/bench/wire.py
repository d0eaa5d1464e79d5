"""What tensors cost on the wire: CPU of both ends, page faults, and the cost of many small tensors.

    python -m tests.bench.wire [--gigabytes 2] [--rounds 3] [--json FILE]

Server and client are processes of their own; the server serves synthetic tensors through `neuroscope.wire.frames` and
`neuroscope.wire.codec`, the client is the SDK's. CPU seconds per GB (10^9 bytes) are the figures to trust: those per
second depend on what else the machine does. Anchors of the same run: raw TCP, and the same tensors as plain protobuf
messages.

`large`: tensors of 4 MiB, in slices of 1 MiB where they travel in messages; before each round as many bytes go over raw
TCP, and a case's rate over that is the median over its rounds. `small`: 200 tensors of 3 KiB a step.
`shared`: through memory that both ends have mapped, read where it lies, checksums and manifest checked as everywhere.
`unix`: a Unix domain socket in place of TCP, without shared memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import xxhash
from opentelemetry.context import Context
from rich.console import Console
from rich.table import Table

from neuroscope import AsyncClient, Client
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.codec import Event, encode
from neuroscope.wire.frames import SLICE_BYTES, FramePacker, OutgoingTensor
from neuroscope.wire.rpc import RPCS
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.shared_memory_pool import SharedMemoryPool, slice_bytes
from neuroscope_serving.malloc import tune_malloc
from neuroscope_serving.peer import client_address

GB = 1e9
LARGE_SHAPE = (1, 512, 2048)  # 4 MiB of float32
SMALL_SHAPE = (1, 1, 768)  # 3 KiB of float32
SMALL_COUNT = 200
SMALL_STEPS = 300
READY = "ready"
SHARING = SharedMemoryPool(InferenceSettings.model_fields["shared_memory_bytes"].default)


# The server's side.


def tensors(kind: str) -> tuple[list[tensor_pb2.TensorSpec], list[OutgoingTensor]]:
    """The plan of a case and the tensors of one step."""
    shape, count = (LARGE_SHAPE, 1) if kind == "large" else (SMALL_SHAPE, SMALL_COUNT)
    values = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    specs = [
        tensor_pb2.TensorSpec(
            plan_index=index,
            hook_id=f"resid_post.{index}",
            site=Point("resid_post", index).to_message(),
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            axes=[tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION, tensor_pb2.AXIS_D_MODEL],
        )
        for index in range(count)
    ]
    step = [OutgoingTensor(i, 0, shape, 0, values[i].reshape(-1).view(np.uint8).data) for i in range(count)]
    return specs, step


async def generate(request: pb.GenerateRequest, context: Any) -> AsyncIterator[Event]:
    """A generation of max_tokens steps; the model's name is the case. Memory is shared with a client that asks."""
    if wanted := SHARING.requested_region(context.invocation_metadata(), client_address(context.peer())):
        large = slice_bytes(SHARING.with_large_slices(Context()))
        async for event in SHARING.share_payloads(events(request, large), wanted):
            yield event
    else:
        async for event in events(request, SLICE_BYTES):
            yield event


async def events(request: pb.GenerateRequest, slice_bytes: int) -> AsyncGenerator[Event, None]:
    """The events of a generation."""
    specs, step = tensors(request.model_id)
    packer = FramePacker(specs, slice_bytes)
    yield pb.GenerateResponse(started=pb.StreamStarted(stream_id="bench", prompts=[pb.TokenIds(ids=[1])]))
    yield pb.GenerateResponse(plan=tensor_pb2.TensorPlan(tensors=specs))
    for index in range(request.sampling.max_tokens):
        for frame in packer.pack(index, step):
            yield frame
        yield pb.GenerateResponse(token=pb.TokenEvent(step=index, text="x"))
    entries = [
        pb.ManifestEntry(
            plan_index=plan_index,
            row=row,
            piece_count=digest.piece_count,
            length_bytes=digest.length_bytes,
            xxh3_64=digest.checksum,
        )
        for (plan_index, row), digest in packer.digests.items()
    ]
    yield pb.GenerateResponse(manifest=pb.Manifest(entries=entries, frame_count=packer.frame_count))


async def generate_plainly(request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
    """The same tensors as protobuf users send them: a message for each tensor, sliced where it is large."""
    _, step = tensors(request.model_id)
    for index in range(request.sampling.max_tokens):
        for tensor in step:
            for start in range(0, tensor.data.nbytes, SLICE_BYTES):
                part = tensor.data[start : start + SLICE_BYTES].tobytes()
                ref = tensor_pb2.TensorRef(plan_index=tensor.plan_index, shape=tensor.shape)
                yield pb.GenerateResponse(
                    tensor_frame=tensor_pb2.TensorFrame(step=index, ref=ref, offset_bytes=start, data=part)
                )


async def generate_bytes(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """As many bytes as asked for, in messages that are nothing else."""
    data = bytes(tensors("large")[1][0].data[:SLICE_BYTES])
    for _ in range(int.from_bytes(request, "little") // SLICE_BYTES):
        yield data


async def detokenize(request: Any, context: Any) -> pb.DetokenizeResponse:
    """What the server has used so far."""
    return pb.DetokenizeResponse(text=json.dumps(usage()))


async def serve() -> None:
    """Serves until its standard input ends."""
    tune_malloc()
    rpc = RPCS["Generate"]
    handlers: dict[str, grpc.RpcMethodHandler] = {
        "Generate": grpc.unary_stream_rpc_method_handler(
            generate,  # pyright: ignore[reportArgumentType]
            request_deserializer=rpc.deserialize_request,
            response_serializer=encode,
        ),
        "GeneratePlainly": grpc.unary_stream_rpc_method_handler(
            generate_plainly,  # pyright: ignore[reportArgumentType]
            request_deserializer=rpc.deserialize_request,
            response_serializer=pb.GenerateResponse.SerializeToString,
        ),
        "GenerateBytes": grpc.unary_stream_rpc_method_handler(generate_bytes),  # pyright: ignore[reportArgumentType]
    }
    tokens = {
        "Detokenize": grpc.unary_unary_rpc_method_handler(
            detokenize,  # pyright: ignore[reportArgumentType]
            request_deserializer=pb.DetokenizeRequest.FromString,
            response_serializer=pb.DetokenizeResponse.SerializeToString,
        )
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(rpc.service, handlers),
            grpc.method_handlers_generic_handler(RPCS["Detokenize"].service, tokens),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    with tempfile.TemporaryDirectory() as folder:
        server.add_insecure_port(f"unix:{folder}/socket")
        await server.start()
        raw = raw_server()
        print(READY, f"127.0.0.1:{port}", f"unix:{folder}/socket", raw, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)
    SHARING.close()


def raw_server() -> int:
    """Sends as many bytes as each connection asks for, from the same tensor, over plain TCP; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    data = tensors("large")[1][0].data

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                remaining = int.from_bytes(connection.recv(8), "little")
                while remaining:
                    start = -remaining % data.nbytes
                    remaining -= connection.send(data[start : start + min(SLICE_BYTES, remaining)])

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


# The client's side.


def usage() -> dict[str, float]:
    """CPU seconds and minor page faults of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "faults": used.ru_minflt}


def read_sync(target: str, kind: str, steps: int, *, shared_memory: bool = False) -> int:
    """The SDK's synchronous client; gives the bytes it read."""
    with Client(target, shared_memory=shared_memory) as client:
        count = 0
        for token in client.generate("x", model_id=kind, max_tokens=steps, keep=False):
            count += sum(piece.array.nbytes for pieces in token.activations.values() for piece in pieces)
        return count


def read_async(target: str, kind: str, steps: int, *, shared_memory: bool = False) -> int:
    """The SDK's asynchronous client."""

    async def run() -> int:
        async with AsyncClient(target, shared_memory=shared_memory) as client:
            count = 0
            async for token in client.generate("x", model_id=kind, max_tokens=steps, keep=False):
                count += sum(piece.array.nbytes for pieces in token.activations.values() for piece in pieces)
            return count

    return asyncio.run(run())


def read_plainly(target: str, kind: str, steps: int) -> int:
    """Plain protobuf messages over plain gRPC, slices joined and hashed as the SDK does."""
    request = pb.GenerateRequest(model_id=kind, sampling=pb.Sampling(max_tokens=steps))
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_stream(
            f"/{RPCS['Generate'].service}/GeneratePlainly",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        count, whole, digest = 0, np.empty(0, np.uint8), xxhash.xxh3_64()
        for message in call(request):
            frame = message.tensor_frame
            if frame.offset_bytes == 0:
                whole, digest = np.empty(list(frame.ref.shape), np.float32).reshape(-1).view(np.uint8), xxhash.xxh3_64()
            data = frame.data
            whole[frame.offset_bytes : frame.offset_bytes + len(data)] = np.frombuffer(data, np.uint8)
            digest.update(data)
            count += len(data)
        return count


def read_bytes(target: str, kind: str, steps: int) -> int:
    """Bytes over gRPC and nothing else: what no codec can be faster than. They are not even looked at."""
    length = steps * tensors(kind)[1][0].data.nbytes // SLICE_BYTES * SLICE_BYTES
    options = [("grpc.max_receive_message_length", -1), ("SingleThreadedUnaryStream", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        call = channel.unary_stream(f"/{RPCS['Generate'].service}/GenerateBytes")
        return sum(map(len, call(length.to_bytes(8, "little"))))


def read_raw(port: int, length: int) -> int:
    """Plain TCP into one buffer."""
    buffer = memoryview(bytearray(SLICE_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(length.to_bytes(8, "little"))
        remaining = length
        while remaining:
            remaining -= connection.recv_into(buffer, min(SLICE_BYTES, remaining))
    return length


READERS: dict[str, Callable[[str, str, int], int]] = {
    "sync": read_sync,
    "async": read_async,
    "unix sync": read_sync,
    "unix async": read_async,
    "shared sync": partial(read_sync, shared_memory=True),
    "shared async": partial(read_async, shared_memory=True),
    "gRPC alone": read_bytes,
    "protobuf": read_plainly,
}


def measure(target: str, port: int, case: str, gigabytes: float, rounds: int) -> dict[str, Any]:
    """The best of some rounds after one to warm up."""
    reader, _, kind = case.partition("/")
    steps = max(1, round(gigabytes * GB / (4 * np.prod(LARGE_SHAPE)))) if kind == "large" else SMALL_STEPS
    best: dict[str, Any] = {}
    ratios: list[float] = []
    with Client(target) as control:

        def server_usage() -> dict[str, float]:
            return json.loads(control.detokenize([]))

        for index in range(rounds + 1):
            length = int(gigabytes * GB) // SLICE_BYTES * SLICE_BYTES
            compared = index and kind == "large" and reader != "tcp"
            raw_s = timeit.timeit(partial(read_raw, port, length), number=1) if compared else None
            ours, theirs, begin = usage(), server_usage(), time.perf_counter()
            if reader == "tcp":
                count = read_raw(port, length)
            else:
                count = READERS[reader](target, kind, steps if index else max(1, steps // 4))
            wall_s = time.perf_counter() - begin
            ours_after, theirs_after = usage(), server_usage()
            gigabytes_read = count / GB
            found: dict[str, Any] = {
                "case": case,
                "bytes": count,
                "mb_per_s": count / 1e6 / wall_s,
                "client_cpu_s_per_gb": (ours_after["cpu_s"] - ours["cpu_s"]) / gigabytes_read,
                "server_cpu_s_per_gb": (theirs_after["cpu_s"] - theirs["cpu_s"]) / gigabytes_read,
                "client_faults_per_gb": (ours_after["faults"] - ours["faults"]) / gigabytes_read,
                "server_faults_per_gb": (theirs_after["faults"] - theirs["faults"]) / gigabytes_read,
            }
            if kind == "small":
                found["client_cpu_ms_per_step"] = (ours_after["cpu_s"] - ours["cpu_s"]) * 1e3 / steps
                found["server_cpu_ms_per_step"] = (theirs_after["cpu_s"] - theirs["cpu_s"]) * 1e3 / steps
            if raw_s is not None:
                ratios.append(count / wall_s / (length / raw_s))
            total = found["client_cpu_s_per_gb"] + found["server_cpu_s_per_gb"]
            if index and (not best or total < best["client_cpu_s_per_gb"] + best["server_cpu_s_per_gb"]):
                best = found
    return best | ({"of_raw_tcp": statistics.median(ratios)} if ratios else {})


# Both.

CASES = [
    *(f"{reader}/large" for reader in ("tcp", *READERS)),
    *(f"{reader}/small" for reader in ("sync", "async", "shared sync", "shared async", "protobuf")),
]


@contextlib.contextmanager
def server_process() -> Generator[tuple[str, str, str]]:
    """A server in a process of its own; gives its targets, over TCP and a Unix socket, and the port of raw TCP."""
    command = [sys.executable, "-m", "tests.bench.wire", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        word, *found = process.stdout.readline().split()
        assert word == READY
        try:
            yield found[0], found[1], found[2]
        finally:
            process.stdin.close()
            process.wait(10)


def run(
    gigabytes: float = 2,
    rounds: int = 3,
    *,
    cases: list[str] | None = None,
    keep: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures every case; each has processes of its own.

    Args:
        gigabytes: how much a round of large tensors carries.
        rounds: of each case, after one to warm up; the one that took the least CPU counts.
        cases: some of `CASES`.
        keep: whether the client calls `tune_malloc` too, as the server does.
        progress: is told what begins.
    """
    results: list[dict[str, Any]] = []
    for case in cases or CASES:
        progress(case)
        with server_process() as (tcp, unix, port):
            target = unix if case.startswith("unix") else tcp
            command = [sys.executable, "-m", "tests.bench.wire", "--client", case, "--target", target, "--port", port]
            command += ["--gigabytes", str(gigabytes), "--rounds", str(rounds), *(["--keep"] if keep else [])]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results.append(json.loads(out))
    versions = {"machine": platform.machine(), "python": platform.python_version(), "grpc": grpc.__version__}
    return {**versions, "cases": results}


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title="Tensors on the wire: CPU seconds per GB, page faults and ms per step as client + server",
        title_justify="left",
    )
    for column in ("case", "client", "server", "both", "MB/s", "of raw TCP", "faults/GB", "ms/step"):
        found.add_column(column, justify="left" if column == "case" else "right")
    for case in result["cases"]:
        client, server = case["client_cpu_s_per_gb"], case["server_cpu_s_per_gb"]
        step = [
            f"{case[f'{end}_cpu_ms_per_step']:.2f}" for end in ("client", "server") if case["case"].endswith("small")
        ]
        found.add_row(
            case["case"],
            f"{client:.2f}",
            f"{server:.2f}",
            f"{client + server:.2f}",
            f"{case['mb_per_s']:.0f}",
            f"{case['of_raw_tcp']:.2f}" if "of_raw_tcp" in case else "",
            f"{case['client_faults_per_gb']:.0f} + {case['server_faults_per_gb']:.0f}",
            " + ".join(step),
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--without-malloc", action="store_true", help="the client leaves glibc as it is")
    for hidden in ("--client", "--target", "--port"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    elif options.client:
        if options.keep:
            tune_malloc()
        found = measure(options.target, int(options.port), options.client, options.gigabytes, options.rounds)
        print(json.dumps(found))
    else:
        result = run(options.gigabytes, options.rounds, cases=options.case, keep=not options.without_malloc)
        Console().print(table(result))
        if options.json:
            options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
