"""POST /v1/analysis/residual_stream and tuned_lens: analyses of the residual stream."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.analysis import InformationFlow, LensReading, LogitAttribution, ResidualResult, TunedLensResult
from neuroscope.results.residual import part_name
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.v1 import tuned_lens_pb2
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.routes.analysis_response import ANALYSIS_CONTENT, AnalysisJson, analysis_response, plan_and_end
from neuroscope_gateway.schemas import residual as schemas
from neuroscope_gateway.schemas.arrays import NamedArray

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERROR_RESPONSES)
_PARAM_NAMES = {"model_id": "model", "neurons.strongest": "strongest_neurons"}
_RENAMES = (
    (r"^(prompts|texts)(\[\d+\]).*$", r"\1\2"),
    (r"^(answers|others)(\[\d+\])\..*$", r"\1\2"),
    (r"^(answer|other)\[", r"\1s["),
    (r"^flow\.corrupted(\[\d+\]).*$", r"corrupted\1"),
    (r"^ablation\.references(\[\d+\]).*$", r"references\1"),
    (r"^(flow|routing|ablation|lens)\.(?!tuned)", ""),
    (r"^lens\.tuned", "tuned_lens"),
    (r"^neurons\.neurons", "neurons"),
)


@router.post(
    "/residual_stream",
    response_model=schemas.ResidualAnalysisResponse,
    responses={200: {"description": "The residual stream on each prompt", "content": ANALYSIS_CONTENT}},
)
async def analyze_residual_stream(body: schemas.ResidualRequest, request: Request, client: AnalysisDep) -> Response:
    """Analyzes the residual stream: contributions, logit attribution, lenses, routing, flow. A disconnect cancels it.

    Events with `stream`: plan, progress, sum, attribution, lens, routed, ablated, flow, result or error.
    """
    json = AnalysisJson(_residual_event, _residual_json, _residual_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


@router.post(
    "/tuned_lens",
    response_model=schemas.TunedLensResponse,
    responses={200: {"description": "The lens", "content": ANALYSIS_CONTENT}},
)
async def train_tuned_lens(body: schemas.TunedLensRequest, request: Request, client: AnalysisDep) -> Response:
    """Trains a tuned lens on texts (Belrose et al. 2023). A disconnect cancels it.

    Events with `stream`: plan, progress, layer, result or error.
    """
    json = AnalysisJson(_layer_event, _tuned_lens_json, _residual_param)
    return await analysis_response(client, body.to_result(), json, request, stream=body.stream, format=body.format)


def _residual_event(event: pb.AnalyzeResidualStreamResponse) -> dict[str, Any]:
    if event.HasField("plan"):
        plan = event.plan
        return {
            "type": "plan",
            "model": plan.model_id,
            "parts": [part_name(part) for part in plan.parts],
            "components": list(plan.components),
            "notes": list(plan.notes),
            "warnings": list(plan.warnings),
        }
    finding = event.partial
    kind = finding.WhichOneof("finding") or ""
    fields: dict[str, Any] = {"type": kind, "prompt": getattr(finding, kind).prompt}
    match kind:
        case "sum":
            heads = finding.sum.head_error if finding.sum.HasField("head_error") else None
            return fields | {"error": {"components": finding.sum.error, "heads": heads}}
        case "attribution":
            return fields | {"attribution": asdict(LogitAttribution.from_message(finding.attribution))}
        case "lens":
            return fields | {"lens": _lens_reading(LensReading.from_message(finding.lens)).model_dump()}
        case "ablated":
            return fields | {"metric": finding.ablated.metric}
        case "flow":
            return fields | {"flow": _information_flow(InformationFlow.from_message(finding.flow)).model_dump()}
        case _:
            return fields


def _residual_json(result: ResidualResult) -> dict[str, Any]:
    plan, end = plan_and_end(result)
    return schemas.ResidualAnalysisResponse(
        model=plan.model_id,
        parts=result.parts,
        components=result.components,
        prompts=[_prompt_analysis(result, index) for index in range(len(plan.prompts))],
        notes=list(plan.notes),
        warnings=list(plan.warnings),
        token_count=end.token_count,
        call_count=end.call_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _prompt_analysis(result: ResidualResult, index: int) -> schemas.PromptAnalysis:
    assert result.plan is not None
    read = result.plan.prompts[index]
    error, lens = result.errors.get(index), result.lenses.get(index)
    attribution, flow = result.attributions.get(index), result.flows.get(index)
    return schemas.PromptAnalysis(
        token_ids=list(read.ids),
        tokens=list(read.texts),
        position=read.position,
        arrays=[NamedArray.of(name, result.array(name, index)) for name in result.names],
        error=None if error is None else schemas.ReconstructionError(**asdict(error)),
        attribution=None if attribution is None else schemas.LogitAttribution(**asdict(attribution)),
        lens=None if lens is None else _lens_reading(lens),
        metric=result.metrics.get(index),
        flow=None if flow is None else _information_flow(flow),
    )


def _lens_reading(reading: LensReading) -> schemas.LensSummary:
    return schemas.LensSummary(
        answer_id=reading.answer_id,
        emergence=reading.emergence,
        tuned_emergence=reading.tuned_emergence,
        texts={str(token): text for token, text in reading.texts.items()},
    )


def _information_flow(flow: InformationFlow) -> schemas.InformationFlow:
    return schemas.InformationFlow(
        clean=flow.clean,
        corrupted=flow.corrupted,
        writers=[schemas.FlowWriter(**schemas.flow_writer_fields(asdict(each))) for each in flow.writers],
        edges=[schemas.FlowEdge(**asdict(edge)) for edge in flow.edges],
    )


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


def _residual_param(field: str) -> str:
    """The parameter of the request for a field of the contract."""
    if field in _PARAM_NAMES:
        return _PARAM_NAMES[field]
    for pattern, replacement in _RENAMES:
        field = re.sub(pattern, replacement, field)
    return field
