"""POST /v1/analysis/tuned_lens: training of tuned lenses."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.analysis import TunedLensResult
from neuroscope.v1 import tuned_lens_pb2
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.routes.analysis_response import ANALYSIS_CONTENT, AnalysisJson, analysis_response, plan_and_end
from neuroscope_gateway.schemas import tuned_lens as schemas

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERROR_RESPONSES)


@router.post(
    "/tuned_lens",
    response_model=schemas.TunedLensResponse,
    responses={200: {"description": "The lens", "content": ANALYSIS_CONTENT}},
)
async def train_tuned_lens(body: schemas.TunedLensRequest, request: Request, client: AnalysisDep) -> Response:
    """Trains a tuned lens on texts (Belrose et al. 2023). A disconnect cancels it.

    Events with `stream`: plan, progress, layer, result or error.
    """
    json = AnalysisJson(_layer_event, _tuned_lens_json, _tuned_lens_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


def _layer_event(event: tuned_lens_pb2.TrainTunedLensResponse) -> dict[str, Any]:
    if event.HasField("plan"):
        plan = event.plan
        return {
            "type": "plan",
            "model": plan.model_id,
            "training_token_count": plan.training_token_count,
            "held_out_token_count": plan.held_out_token_count,
            "warnings": list(plan.warnings),
        }
    layer = event.partial
    return {
        "type": "layer",
        "point": layer.point,
        "held_out_kl_before": layer.held_out_kl_before,
        "held_out_kl_after": layer.held_out_kl_after,
        "held_out_kl_ridge": layer.held_out_kl_ridge,
        "iterations": layer.iterations,
    }


def _tuned_lens_json(result: TunedLensResult) -> dict[str, Any]:
    _, end = plan_and_end(result)
    return schemas.TunedLensResponse(
        lens=schemas.TunedLensFile.from_lens(result.lens),
        layers=[schemas.TunedLayer(**asdict(layer)) for layer in result.layers],
        token_count=end.token_count,
        call_count=end.call_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _tuned_lens_param(field: str) -> str:
    """The parameter of the request for a field of the contract."""
    return "model" if field == "model_id" else re.sub(r"^(texts\[\d+\]).*$", r"\1", field)
