"""The grpc.health.v1 service, for container platforms and load balancers.

Wraps gRPC's own servicer, which lacks `List`, answers UNKNOWN to a malformed request and NOT_FOUND without a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2

from neuroscope.errors import UnknownIdError, nearest
from neuroscope.wire import rpc
from neuroscope_serving.handlers import Context, handler

if TYPE_CHECKING:

    class _Servicer:  # the stubs lack it
        async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any: ...
        async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None: ...
        async def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None: ...
        async def enter_graceful_shutdown(self) -> None: ...
else:
    _Servicer = health.aio.HealthServicer

_PB: Any = health_pb2  # the stubs lack List


class Health(_Servicer):
    """Implements grpc.health.v1.Health.

    Args:
        services: full names of the services, besides "" for all of them.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._names = ("", *services)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server adds."""
        calls = rpc.rpcs_of(_PB.DESCRIPTOR)
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME, {call.method: handler(call, getattr(self, call.method)) for call in calls}
        )

    async def set_all(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Sets the status of every service and notifies watchers."""
        for name in self._names:
            await self.set(name, status)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        """The status of a service.

        Raises:
            UnknownIdError: there is no service of that name.
        """
        if request.service not in self._names:
            valid = nearest(request.service, self._names[1:])
            raise UnknownIdError(f"unknown service {request.service!r}", field="service", valid=valid)
        return await super().Check(request, context)

    async def List(self, request: Any, context: Context) -> Any:
        """The status of every service."""
        statuses = {
            name: await super(Health, self).Check(health_pb2.HealthCheckRequest(service=name), context)
            for name in self._names
        }
        return _PB.HealthListResponse(statuses=statuses)
