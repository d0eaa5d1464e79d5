"""POST /v1/analysis/attention/comparison, composition and interactions: comparing heads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.analysis import AttentionComparison, CompositionResult, Interaction, InteractionGraph
from neuroscope.v1 import attention_comparison_pb2, composition_pb2, interaction_pb2
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.routes.analysis_response import ANALYSIS_CONTENT, AnalysisJson, analysis_response, plan_and_end
from neuroscope_gateway.routes.attention import attention_param
from neuroscope_gateway.schemas import heads as schemas
from neuroscope_gateway.schemas.arrays import NamedArray

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERROR_RESPONSES)


@router.post(
    "/attention/comparison",
    response_model=schemas.AttentionComparisonResponse,
    responses={200: {"description": "The heads on both prompts", "content": ANALYSIS_CONTENT}},
)
async def compare_attention(body: schemas.ComparisonRequest, request: Request, client: AnalysisDep) -> Response:
    """Compares attention patterns on two prompts, head by head. A disconnect cancels it."""
    json = AnalysisJson(_plan_event, _comparison_json, attention_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


@router.post(
    "/composition",
    response_model=schemas.CompositionResponse,
    responses={200: {"description": "Scores of every two heads", "content": ANALYSIS_CONTENT}},
)
async def measure_composition(body: schemas.CompositionRequest, request: Request, client: AnalysisDep) -> Response:
    """Measures composition scores of all pairs of heads from their weights. A disconnect cancels it."""
    json = AnalysisJson(_plan_event, _composition_json, attention_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


@router.post(
    "/interactions",
    response_model=schemas.InteractionsResponse,
    responses={200: {"description": "Which heads read what other heads write", "content": ANALYSIS_CONTENT}},
)
async def map_interactions(body: schemas.InteractionsRequest, request: Request, client: AnalysisDep) -> Response:
    """Finds interactions between heads by path patching. A disconnect cancels it.

    Events with `stream`: plan, progress, tried (the paths of a layer), result or error.
    """
    json = AnalysisJson(_interaction_event, _interactions_json, attention_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


def _plan_event(
    event: attention_comparison_pb2.CompareAttentionResponse | composition_pb2.MeasureCompositionResponse,
) -> dict[str, Any]:
    return _plan_json(event.plan)


def _plan_json(plan: Any) -> dict[str, Any]:
    return {"type": "plan", "model": plan.model_id, "layers": list(plan.layers), "head_count": plan.head_count}


def _interaction_event(event: interaction_pb2.MapInteractionsResponse) -> dict[str, Any]:
    if event.HasField("plan"):
        return _plan_json(event.plan) | {"metric": event.plan.metric, "pair_count": event.plan.pair_count}
    return {"type": "tried", "paths": [asdict(Interaction.from_message(each)) for each in event.partial.tried]}


def _comparison_json(result: AttentionComparison) -> dict[str, Any]:
    plan, end = plan_and_end(result)
    return schemas.AttentionComparisonResponse(
        model=plan.model_id,
        alignment=result.alignment,
        arrays=[NamedArray.of(array.name, array) for array in result],
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _composition_json(result: CompositionResult) -> dict[str, Any]:
    plan, end = plan_and_end(result)
    baselines: list[schemas.CompositionBaseline] = []
    for kind in ("q", "k", "v"):
        mean, deviation = result.baseline(kind)
        baselines.append(schemas.CompositionBaseline(kind=kind, mean=mean, standard_deviation=deviation))
    return schemas.CompositionResponse(
        model=plan.model_id,
        arrays=[NamedArray.of(array.name, array) for array in result],
        baselines=baselines,
        warnings=list(plan.warnings),
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _interactions_json(result: InteractionGraph) -> dict[str, Any]:
    plan, end = plan_and_end(result)
    return schemas.InteractionsResponse(
        model=plan.model_id,
        metric=plan.metric,
        interactions=[schemas.HeadInteraction(**asdict(each)) for each in result.interactions],
        arrays=[NamedArray.of(array.name, array) for array in result],
        tested_count=end.tested_count,
        screened_count=end.screened_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()
