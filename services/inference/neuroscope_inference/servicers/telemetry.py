"""TelemetryService: the spans of recent requests, and the load of the moment."""

from __future__ import annotations

from opentelemetry.context import Context

from neuroscope.tracing import telemetry
from neuroscope.v1 import telemetry_pb2 as pb
from neuroscope_inference.workload import Workload


class TelemetryServicer:
    """Implements neuroscope.v1.TelemetryService."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        """Hands out the spans of a trace."""
        return pb.GetTraceResponse(traces_data=telemetry.recent_trace(request.trace_id))

    async def GetWorkload(self, request: pb.GetWorkloadRequest, context: Context) -> pb.GetWorkloadResponse:
        """Says how busy the service is."""
        return self._workload.snapshot()
