"""POST /v1/analysis/residual_stream and tuned_lens: what is written into the residual stream, and who reads it."""

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
from neuroscope_gateway.analyses import ANSWERS, presented, values_of
from neuroscope_gateway.schemas import residual as schemas
from neuroscope_gateway.service import ERRORS, Analysis

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERRORS)
_PARAMS = {"model_id": "model", "neurons.strongest": "strongest_neurons"}
_RENAMED = (
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
    response_model=schemas.ResidualAnalysis,
    responses={200: {"description": "The residual stream on each prompt", "content": ANSWERS}},
)
async def analyze_residual_stream(body: schemas.ResidualRequest, request: Request, client: Analysis) -> Response:
    """Describes the residual stream: what is written into it, logits, lenses, routes, flow. Leaving cancels it.

    With `stream` events are plan, progress, sum, attribution, lens, routed, ablated and flow as they come, result, or
    error.
    """
    return await presented(client, body, _event, _analysis, _param, request)


@router.post(
    "/tuned_lens",
    response_model=schemas.TrainedLens,
    responses={200: {"description": "The lens", "content": ANSWERS}},
)
async def train_tuned_lens(body: schemas.TuningRequest, request: Request, client: Analysis) -> Response:
    """Trains a tuned lens on given texts (Belrose et al. 2023), for analyses of the stream. Leaving cancels it.

    With `stream` events are plan, progress, layer as they come, result, or error.
    """
    return await presented(client, body, _layer_event, _trained, _param, request)


def _event(event: pb.AnalyzeResidualStreamResponse) -> dict[str, Any]:
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
    told: dict[str, Any] = {"type": kind, "prompt": getattr(finding, kind).prompt}
    match kind:
        case "sum":
            heads = finding.sum.head_error if finding.sum.HasField("head_error") else None
            return told | {"error": {"components": finding.sum.error, "heads": heads}}
        case "attribution":
            return told | {"attribution": asdict(LogitAttribution.from_message(finding.attribution))}
        case "lens":
            return told | {"lens": _lens(LensReading.from_message(finding.lens)).model_dump()}
        case "ablated":
            return told | {"metric": finding.ablated.metric}
        case "flow":
            return told | {"flow": _flow(InformationFlow.from_message(finding.flow)).model_dump()}
        case _:
            return told


def _analysis(result: ResidualResult) -> dict[str, Any]:
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    return schemas.ResidualAnalysis(
        model=plan.model_id,
        parts=result.parts,
        components=result.components,
        prompts=[_prompt(result, index) for index in range(len(plan.prompts))],
        notes=list(plan.notes),
        warnings=list(plan.warnings),
        token_count=end.token_count,
        call_count=end.call_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _prompt(result: ResidualResult, index: int) -> schemas.AnalyzedPrompt:
    assert result.plan is not None
    read = result.plan.prompts[index]
    error, lens = result.errors.get(index), result.lenses.get(index)
    attribution, flow = result.attributions.get(index), result.flows.get(index)
    return schemas.AnalyzedPrompt(
        token_ids=list(read.ids),
        tokens=list(read.texts),
        position=read.position,
        arrays=[values_of(result.array(name, index)) for name in result.names],
        error=None if error is None else schemas.SumError(**asdict(error)),
        attribution=None if attribution is None else schemas.LogitAttribution(**asdict(attribution)),
        lens=None if lens is None else _lens(lens),
        metric=result.metrics.get(index),
        flow=None if flow is None else _flow(flow),
    )


def _lens(reading: LensReading) -> schemas.LensReading:
    return schemas.LensReading(
        answer_id=reading.answer_id,
        emergence=reading.emergence,
        tuned_emergence=reading.tuned_emergence,
        texts={str(token): text for token, text in reading.texts.items()},
    )


def _flow(flow: InformationFlow) -> schemas.InformationFlow:
    return schemas.InformationFlow(
        clean=flow.clean,
        corrupted=flow.corrupted,
        writers=[schemas.FlowWriter(**schemas.rewritings(asdict(each))) for each in flow.writers],
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


def _trained(result: TunedLensResult) -> dict[str, Any]:
    end = result.end
    assert end is not None
    return schemas.TrainedLens(
        lens=schemas.TunedLensForm.from_lens(result.lens),
        layers=[schemas.TunedLayer(**asdict(layer)) for layer in result.layers],
        token_count=end.token_count,
        call_count=end.call_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _param(field: str) -> str:
    """The parameter of the request that a field of the contract comes from."""
    if field in _PARAMS:
        return _PARAMS[field]
    for pattern, replacement in _RENAMED:
        field = re.sub(pattern, replacement, field)
    return field
