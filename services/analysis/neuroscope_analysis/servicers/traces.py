"""TelemetryService: spans of recent requests, and the current load."""

from __future__ import annotations

from opentelemetry.context import Context

from neuroscope.tracing import telemetry
from neuroscope.v1 import telemetry_pb2 as pb
from neuroscope_serving.admission import Admission


class TelemetryServicer:
    """Implements neuroscope.v1.TelemetryService."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        """Returns this service's spans of a trace."""
        return pb.GetTraceResponse(traces_data=telemetry.recent_trace(request.trace_id))

    async def GetWorkload(self, request: pb.GetWorkloadRequest, context: Context) -> pb.GetWorkloadResponse:
        """Returns the number of running analyses; the other fields are those of inference services."""
        return pb.GetWorkloadResponse(streams=self._admission.running)
