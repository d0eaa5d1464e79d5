"""POST /v1/analysis/...: what the analysis service says about how a model works."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from neuroscope.analysis import AnalysisResult, AsyncAnalysisClient, AttentionResult, HeadLabel
from neuroscope.analysis.attention_request import role_name
from neuroscope.arrays.grid import Grid
from neuroscope.errors import MLXIntegrationError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import progress_pb2
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import SSE, SSE_CONTENT, named_sse_events
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.routes.sweeps import prepend, to_nested_lists
from neuroscope_gateway.schemas import attention as schemas

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERROR_RESPONSES)
_PICTURE_MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "html": "text/html"}
ANALYSIS_CONTENT: dict[str, Any] = SSE_CONTENT | {
    media: {"schema": {"type": "string"}, "example": "a picture"} for media in _PICTURE_MEDIA_TYPES.values()
}
"""What the answers of analyses may be besides JSON."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
ResultT = TypeVar("ResultT", bound=AnalysisResult[Any, Any, Any, Any])
ResultT_co = TypeVar("ResultT_co", bound=AnalysisResult[Any, Any, Any, Any], covariant=True)
_PARAM_NAMES = {"sequences.count": "sequences", "model_id": "model"}


class AnalysisRequest(Protocol[ResultT_co]):
    """The request of an analysis."""

    @property
    def stream(self) -> bool:
        """Whether it is answered with every event."""
        ...

    @property
    def format(self) -> str | None:
        """Of the picture that it is answered with."""
        ...

    def to_result(self) -> ResultT_co:
        """The empty result of the request as the SDK writes it."""
        ...


@router.post(
    "/attention",
    response_model=schemas.AttentionAnalysis,
    responses={200: {"description": "The heads", "content": ANALYSIS_CONTENT}},
)
async def analyze_attention(body: schemas.AttentionRequest, request: Request, client: AnalysisDep) -> Response:
    """Describes every attention head: statistics, scores of roles, labels tested by ablation. Leaving cancels it.

    With `stream` events are plan, progress, prompt and label as they come, result, or error.
    """
    return await analysis_response(client, body, _attention_event, _attention_json, attention_param, request)


async def analysis_response(
    client: AsyncAnalysisClient,
    body: AnalysisRequest[ResultT],
    event_json: Callable[[Any], dict[str, Any]],
    result_json: Callable[[ResultT], dict[str, Any]],
    rest_param: Callable[[str], str],
    request: Request,
) -> Response:
    """Runs what a request asks for, and answers in the way that it asks for; arguments are those of `answer`."""
    return await result_response(
        client, body.to_result(), event_json, result_json, rest_param, request, streams=body.stream, format=body.format
    )


async def result_response(
    client: AsyncAnalysisClient,
    result: ResultT,
    event_json: Callable[[Any], dict[str, Any]],
    result_json: Callable[[ResultT], dict[str, Any]],
    rest_param: Callable[[str], str],
    request: Request,
    *,
    streams: bool,
    format: str | None = None,
) -> Response:
    """Runs what a result asks for.

    Args:
        client: of the analysis service.
        result: empty yet.
        told: an event of its stream that is neither progress nor the end.
        found: the whole.
        param: the parameter of the request that a field of the contract comes from.
        request: whoever sent it leaves: the analysis is cancelled.
        streams: answers with every event, not with the end alone.
        format: answers with a picture: png, svg, pdf or html.
    """
    events = _events(client, result, event_json, result_json, rest_param)
    if format is not None:
        async with aclosing(events):
            await cancel_on_disconnect(request.receive, _last_event(events))
        return Response(await asyncio.to_thread(_picture, result, format), media_type=_PICTURE_MEDIA_TYPES[format])
    if not streams:
        async with aclosing(events):
            return JsonResponse(await cancel_on_disconnect(request.receive, _last_event(events)))
    first = await cancel_on_disconnect(request.receive, anext(events))  # so that a refusal still has its status
    frames = named_sse_events(prepend(first, events), lambda error: {"type": "error", **error})
    return StreamingResponse(frames, media_type=SSE, headers=_STREAM_HEADERS)


def _picture(result: Any, format: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"picture.{format}")
        result.plot(path)
        return path.read_bytes()


async def _last_event(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for event in events:
        last = event
    return {name: value for name, value in last.items() if name != "type"}


async def _events(
    client: AsyncAnalysisClient,
    result: ResultT,
    event_json: Callable[[Any], dict[str, Any]],
    result_json: Callable[[ResultT], dict[str, Any]],
    rest_param: Callable[[str], str],
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of an analysis as JSON; the result is filled on the way."""
    try:
        async with aclosing(client.events(result)) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "progress":
                        yield {"type": "progress", **_progress_json(event.progress)}
                    case "result":
                        yield {"type": "result", **result_json(result)}
                    case _:
                        yield event_json(event)
    except MLXIntegrationError as error:
        error.field = rest_param(error.field)
        raise
    result.finish()


def _progress_json(progress: progress_pb2.AnalysisProgress) -> dict[str, Any]:
    return {
        "stage": progress.stage,
        "done": progress.done,
        "count": progress.count,
        "elapsed_seconds": progress.elapsed_seconds,
    }


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
    if event.partial.HasField("label"):
        return {"type": "label", **asdict(HeadLabel.from_message(event.partial.label))}
    prompt = event.partial.prompt
    return {"type": "prompt", "prompt": prompt.prompt, "token_count": prompt.token_count}


def _attention_json(result: AttentionResult) -> dict[str, Any]:
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    return schemas.AttentionAnalysis(
        model=plan.model_id,
        arrays=[array_values(array) for array in result],
        roles=[schemas.RoleDefinition(**role) for role in _role_definitions(plan)],
        labels=[schemas.HeadLabel(**asdict(label)) for label in result.labels],
        token_count=end.token_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def array_values(array: Grid) -> schemas.NamedArray:
    """An array as JSON."""
    coords = {dim: list(values) for dim, values in array.coords.items()}
    return schemas.NamedArray(
        name=array.name, dims=list(array.dims), coords=coords, values=to_nested_lists(array.values)
    )


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
    """The parameter of the request that a field of the contract comes from."""
    field = re.sub(r"^(prompts\[\d+\]).*$", r"\1", field)
    field = re.sub(r"^(pairs|named_pairs)\[(\d+)\](\.pair)?", r"\1[\2]", field)
    field = re.sub(r"^thresholds\[\d+\].*$", "thresholds", field)
    return _PARAM_NAMES.get(field, re.sub(r"^(sequences|causal_test)\.", "", field))
