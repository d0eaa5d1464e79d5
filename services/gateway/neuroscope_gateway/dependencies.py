"""How a route reaches the inference service, and the answers that every route may give."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from neuroscope.aio import AsyncClient
from neuroscope.analysis import AsyncAnalysisClient
from neuroscope_gateway.schemas.answers import ErrorResponse


def _inference_client(request: Request) -> AsyncClient:
    return request.app.state.client


InferenceDep = Annotated[AsyncClient, Depends(_inference_client)]
"""The client of the inference service, as a parameter of a route."""


def _analysis_client(request: Request) -> AsyncAnalysisClient:
    return request.app.state.analysis


AnalysisDep = Annotated[AsyncAnalysisClient, Depends(_analysis_client)]
"""The client of the analysis service, as a parameter of a route."""

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "A mistake in the request"},
    "5XX": {"model": ErrorResponse, "description": "The service cannot be reached, or failed"},
}
"""Errors, for OpenAPI."""
