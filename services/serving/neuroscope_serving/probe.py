"""Asks a service once whether it serves, for health checks; exit status 0 if it does.

A service serves once it is prepared (its models are loaded), and no longer when it drains. Without a target it is the
one that the environment configures: its Unix socket if it has one, where no certificate is asked for, else its port.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def main(arguments: Sequence[str], prefix: str, default_port: int) -> int:
    """Asks; 1 if it does not serve, and says why.

    Args:
        arguments: the target, or none.
        prefix: of the service's variables.
        default_port: its port where none is set.
    """
    target = arguments[0] if arguments else _own_target(prefix, default_port)
    with grpc.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # the stubs of its package know no method
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}", file=sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]
            return 1
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{target}: {name}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _own_target(prefix: str, default_port: int) -> str:
    socket = os.environ.get(f"{prefix}UNIX_SOCKET", "")
    return f"unix:{socket}" if socket else f"127.0.0.1:{os.environ.get(f'{prefix}PORT', str(default_port))}"
