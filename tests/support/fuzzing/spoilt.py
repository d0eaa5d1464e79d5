"""Spoilt requests of a call that streams its answer, field by field and byte by byte, and what becomes of them."""

import random
from collections.abc import Mapping
from typing import Any

import grpc

from neuroscope.errors import error_classes
from neuroscope.wire import status
from neuroscope.wire.rpc import Rpc
from tests.support.fuzzing.mutations import Mutator
from tests.support.fuzzing.sensible import Sensible
from tests.support.services import Service

ALLOWED = {"OK"} | {cls.grpc_status.name for cls in error_classes().values() if 400 <= cls.http_status < 500}
"""Statuses that a mistake of the caller's may have."""


def statuses_of_spoilt(service: Service, rpc: Rpc, examples: Mapping[str, Any], count: int) -> set[str]:
    """The statuses of so many requests, every sixth spoilt in its bytes, the others in their fields.

    Raises:
        AssertionError: one is not of its caller's mistakes, has no reason of ours, or left a trace in the log.
    """
    descriptor: Any = rpc.request.DESCRIPTOR
    found: dict[int, tuple[str, bool]] = {}
    with grpc.insecure_channel(service.target) as channel:
        call: Any = channel.unary_stream(rpc.path)
        for number in range(count):
            choice = random.Random(number)
            raw = Sensible(examples).message(descriptor, choice).SerializeToString()
            mutator = Mutator(choice)
            if number % 6:
                raw = mutator.by_field(raw, descriptor)
            elif number:
                raw = mutator.by_byte(raw, raw)
            found[number] = _outcome(call, raw)
    names = {name for name, _ in found.values()}
    assert names <= ALLOWED, found
    assert all(has_reason for _, has_reason in found.values()), found
    assert "Traceback" not in service.log
    return names


def _outcome(call: Any, raw: bytes) -> tuple[str, bool]:
    """The status of a call, and whether it has a reason of ours."""
    try:
        for _ in call(raw, timeout=60):
            pass
    except grpc.RpcError as error:
        return error.code().name, status.error_info(error) is not None  # type: ignore[attr-defined]
    return "OK", True
