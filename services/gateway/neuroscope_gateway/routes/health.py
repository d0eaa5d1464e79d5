"""GET /health: the state of the gateway and its inference service."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.errors import MLXIntegrationError, NeuroScopeIntegrationError
from neuroscope_gateway.dependencies import InferenceDep
from neuroscope_gateway.http import errors
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.schemas.errors import ErrorResponse
from neuroscope_gateway.schemas.health import Health, Workload

router = APIRouter(tags=["health"])

TIMEOUT_S = 2.0


@router.get(
    "/health",
    response_model=Health,
    responses={503: {"model": ErrorResponse, "description": "The inference service does not answer"}},
)
async def health(request: Request, client: InferenceDep) -> Response:
    """Returns `healthy` with status 200, or `unavailable` with status 503 and the error."""
    target: str = request.app.state.settings.inference
    state: dict[str, Any] = {"service": "neuroscope-gateway", "version": version("neuroscope-mlx"), "inference": target}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            models, workload = await client.models(), await client.workload()
    except (MLXIntegrationError, TimeoutError) as error:
        if not isinstance(error, MLXIntegrationError):
            error = NeuroScopeIntegrationError(
                f"no inference service answered at {target} within {TIMEOUT_S:g} s. Start one with `neuroscope up`"
            )
        failure = {"status": "unavailable"} | state | {"models": list[str]()} | errors.exception_json(error)
        headers = {"Retry-After": errors.RETRY_AFTER_SECONDS}
        return JsonResponse(failure, HTTPStatus.SERVICE_UNAVAILABLE, headers=headers)
    numbers = {name: getattr(workload, name) for name in Workload.model_fields}
    names = [model.model_id for model in models]
    return JsonResponse({"status": "healthy"} | state | {"models": names, "workload": numbers})
