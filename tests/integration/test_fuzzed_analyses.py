"""Spoilt requests to every call of the analysis service: each is answered or blamed on its caller.

python -m pytest tests/integration/test_fuzzed_analyses.py --analysis-cases 5000
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from neuroscope import Client
from neuroscope.errors import error_classes
from neuroscope.wire import status
from neuroscope.wire.rpc import ANALYSIS_RPCS
from tests.support.analyses import CASES
from tests.support.fuzzing.mutations import Mutator
from tests.support.services import Service, running

SEED = 2026
DEADLINE_S = 60.0
MOST_EVENTS = 4
"""Read of a stream, whose call is then cancelled; of every eighth all are."""
GROWTH_BAR_BYTES = 20_000_000
SETTLING = 1000
"""Cases after which memory does not grow any more."""
ALLOWED = {"OK"} | {cls.grpc_status.name for cls in error_classes().values() if 400 <= cls.http_status < 500}


@pytest.fixture(scope="module")
def service(inference: Service) -> Iterator[Service]:
    with running("neuroscope_analysis", "--port", "0", "--inference", inference.target) as found:
        yield found


def outcome(channel: grpc.Channel, method: str, raw: bytes, most: int | None) -> tuple[str, str]:
    """The status of a call, and what it says; whether it has a reason of ours is part of the status."""
    rpc = ANALYSIS_RPCS[method]
    make: Any = channel.unary_stream if rpc.streams_responses else channel.unary_unary
    call: Any = None
    try:
        call = make(rpc.path)(raw, timeout=DEADLINE_S)
        for answer in itertools.islice(call, most) if rpc.streams_responses else [call]:
            rpc.response.FromString(answer)
    except grpc.RpcError as error:
        code = error.code().name
        return (code if status.error_info(error) else f"{code} without a reason"), str(error.details())
    finally:
        if rpc.streams_responses and call is not None:
            call.cancel()
    return "OK", ""


@pytest.mark.timeout(1800)
def test_every_spoilt_request_is_answered_or_its_callers_mistake(
    service: Service, inference: Service, request: pytest.FixtureRequest
) -> None:
    """No INTERNAL, no UNKNOWN, nothing that hangs or goes on."""
    total = int(str(request.config.getoption("--analysis-cases")))
    codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seconds: defaultdict[str, float] = defaultdict(float)
    slowest = (0.0, 0, "", "")
    wrong: list[str] = []
    good = [(case.rpc, case.make(False)) for case in CASES]
    settled_bytes = 0
    with grpc.insecure_channel(service.target) as channel:
        for number in range(total):
            choice = random.Random(SEED + number)
            method, message = good[number % len(good)]
            descriptor: Any = message.DESCRIPTOR
            raw, (_, other) = message.SerializeToString(), choice.choice(good)
            kind = number // len(good) % 8
            if kind in (1, 2, 3, 4, 5):
                raw = Mutator(choice).by_field(raw, descriptor)
            elif kind:
                raw = Mutator(choice).by_byte(raw, other.SerializeToString())
            began = time.perf_counter()
            code, says = outcome(channel, method, raw, None if choice.random() < 1 / 8 else MOST_EVENTS)
            seconds[method] += (took_s := time.perf_counter() - began)
            slowest = max(slowest, (took_s, number, code, says[:200]))
            codes[method][code] += 1
            if code not in ALLOWED:
                wrong.append(f"{number}: {method}: {code}: {says}: {raw.hex()[:400]}")
            if number == SETTLING:
                settled_bytes = service.resident_bytes()
    assert not wrong, "\n".join(wrong[:10])
    print(*(f"{method}: {seconds[method]:.1f} s, {dict(found)}" for method, found in codes.items()), sep="\n")
    print("slowest:", slowest)
    print(f"{settled_bytes / 1e6:.0f} MB after {SETTLING}, {service.resident_bytes() / 1e6:.0f} MB after {total}")
    assert all(found["OK"] for found in codes.values()), codes
    assert sum(found["INVALID_ARGUMENT"] for found in codes.values()) > total / 10
    assert service.process.poll() is None
    assert "Traceback" not in service.log
    with Client(inference.target) as below:
        deadline = time.monotonic() + DEADLINE_S
        while below.workload().streams:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    if settled_bytes:
        assert service.resident_bytes() <= settled_bytes + GROWTH_BAR_BYTES
