"""Dependencies of routes: clients of the services, the model of a request, error responses."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from neuroscope.aio import AsyncClient
from neuroscope.analysis import AsyncAnalysisClient
from neuroscope.vocabulary.model_info import ModelInfo
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas.errors import ErrorResponse


def _inference_client(request: Request) -> AsyncClient:
    return request.app.state.client


InferenceDep = Annotated[AsyncClient, Depends(_inference_client)]
"""The client of the inference service."""


def _analysis_client(request: Request) -> AsyncAnalysisClient:
    return request.app.state.analysis


AnalysisDep = Annotated[AsyncAnalysisClient, Depends(_analysis_client)]
"""The client of the analysis service."""

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "An error in the request"},
    "5XX": {"model": ErrorResponse, "description": "The service cannot be reached, or failed"},
}
"""The OpenAPI `responses` of errors."""


async def get_model_info(client: AsyncClient, model_id: str) -> ModelInfo:
    """The shape and the hook points of a loaded model; an empty id is the model that was loaded first.

    Raises:
        ModelNotFoundError: there is no such model; `field` is `model`.
    """
    with rest_params(lambda _: "model"):
        return await client.model(model_id)
