"""The gRPC server of the inference service."""

from __future__ import annotations

from neuroscope.tracing import telemetry
from neuroscope.wire.rpc import RPCS
from neuroscope_inference.service import InferenceService
from neuroscope_inference.settings import InferenceSettings
from neuroscope_serving import server

NAME = "neuroscope-inference"


async def serve(settings: InferenceSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises the errors of `neuroscope_serving.server.serve`."""
    await server.serve(NAME, settings, RPCS, _create_service)


def _create_service(settings: InferenceSettings) -> InferenceService:
    service = InferenceService(settings)
    service.workload.publish(telemetry.meter())
    return service
