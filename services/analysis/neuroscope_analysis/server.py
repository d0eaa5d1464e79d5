"""The gRPC server of the analysis service."""

from __future__ import annotations

from neuroscope.wire.rpc import ANALYSIS_RPCS
from neuroscope_analysis.service import AnalysisService
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_serving import server

NAME = "neuroscope-analysis"


async def serve(settings: AnalysisSettings) -> None:
    """Serves until SIGTERM or SIGINT. Errors are those of `neuroscope_serving.server.serve`."""
    await server.serve(NAME, settings, ANALYSIS_RPCS, AnalysisService)
