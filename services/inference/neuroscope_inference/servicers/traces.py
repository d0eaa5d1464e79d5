"""TelemetryService: the spans of recent requests."""

from __future__ import annotations

from opentelemetry.context import Context

from neuroscope import telemetry
from neuroscope.v1 import telemetry_pb2 as pb


class TelemetryServicer:
    """Implements neuroscope.v1.TelemetryService."""

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        """Hands out the spans of a trace."""
        return pb.GetTraceResponse(traces_data=telemetry.recent_trace(request.trace_id))
