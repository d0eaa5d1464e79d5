"""POST /v1/analysis/attention: analyses of attention heads."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.analysis import AttentionResult, HeadLabel
from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.routes.analysis_response import ANALYSIS_CONTENT, AnalysisJson, analysis_response, plan_and_end
from neuroscope_gateway.schemas import attention as schemas
from neuroscope_gateway.schemas.arrays import NamedArray

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERROR_RESPONSES)
_PARAM_NAMES = {"sequences.count": "sequences", "model_id": "model"}


@router.post(
    "/attention",
    response_model=schemas.AttentionAnalysis,
    responses={200: {"description": "The heads", "content": ANALYSIS_CONTENT}},
)
async def analyze_attention(body: schemas.AttentionRequest, request: Request, client: AnalysisDep) -> Response:
    """Analyzes attention heads: statistics, role scores, labels tested by ablation. A disconnect cancels it.

    Events with `stream`: plan, progress, prompt, scores (labels before their tests), label (tested), result or error.
    """
    return await analysis_response(client, body.to_result(), _JSON, request, stream=body.stream, format=body.format)


def _attention_event(event: pb.AnalyzeAttentionResponse) -> dict[str, Any]:
    if event.HasField("plan"):
        plan = event.plan
        return {
            "type": "plan",
            "model": plan.model_id,
            "layers": list(plan.layers),
            "head_count": plan.head_count,
            "roles": _role_definitions(plan),
        }
    if event.partial.HasField("scores"):
        labels = [asdict(HeadLabel.from_message(label)) for label in event.partial.scores.labels]
        return {"type": "scores", "labels": labels}
    if event.partial.HasField("label"):
        return {"type": "label", **asdict(HeadLabel.from_message(event.partial.label))}
    prompt = event.partial.prompt
    return {"type": "prompt", "prompt": prompt.prompt, "token_count": prompt.token_count}


def _attention_json(result: AttentionResult) -> dict[str, Any]:
    plan, end = plan_and_end(result)
    return schemas.AttentionAnalysis(
        model=plan.model_id,
        arrays=[NamedArray.of(array.name, array) for array in result],
        roles=[schemas.RoleDefinition(**role) for role in _role_definitions(plan)],
        labels=[schemas.HeadLabel(**asdict(label)) for label in result.labels],
        token_count=end.token_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _role_definitions(plan: pb.AttentionPlan) -> list[dict[str, Any]]:
    return [
        {
            "role": role_name(role.role),
            "threshold": role.threshold,
            "definition": role.definition,
            "causal_test": role.causal_test,
        }
        for role in plan.roles
    ]


def attention_param(field: str) -> str:
    """The parameter of the request for a field of the contract."""
    field = re.sub(r"^(prompts\[\d+\]).*$", r"\1", field)
    field = re.sub(r"^(pairs|named_pairs)\[(\d+)\](\.pair)?", r"\1[\2]", field)
    field = re.sub(r"^thresholds\[\d+\].*$", "thresholds", field)
    return _PARAM_NAMES.get(field, re.sub(r"^(sequences|causal_test)\.", "", field))


_JSON = AnalysisJson(_attention_event, _attention_json, attention_param)
