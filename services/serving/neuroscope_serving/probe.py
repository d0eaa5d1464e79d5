"""Checks once whether a service serves; exit status 0 if it does. For health checks of containers.

A service serves from the moment its models are loaded until it drains. Without a target, the environment's settings
name the service: its Unix socket if there is one (which needs no certificate), otherwise its port.
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
    """Checks a service; returns 1 and prints the reason if it does not serve.

    Args:
        arguments: the target, or none.
        prefix: prefix of the service's environment variables.
        default_port: its default port.
    """
    target = arguments[0] if arguments else _own_target(prefix, default_port)
    with grpc.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # the package's stubs have no methods
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
