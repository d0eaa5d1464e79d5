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
from neuroscope.errors import MLXIntegrationError
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import progress_pb2
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.experiments import chained, nested
from neuroscope_gateway.json import JsonResponse
from neuroscope_gateway.schemas import analyses as schemas
from neuroscope_gateway.service import ERRORS, Analysis
from neuroscope_gateway.streaming import EVENTS, SSE, named_events

router = APIRouter(prefix="/v1/analysis", tags=["analysis"], responses=ERRORS)
_PICTURES = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "html": "text/html"}
ANSWERS: dict[str, Any] = EVENTS | {
    media: {"schema": {"type": "string"}, "example": "a picture"} for media in _PICTURES.values()
}
"""What the answers of analyses may be besides JSON."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
Result = TypeVar("Result", bound=AnalysisResult[Any, Any, Any, Any])
Asked = TypeVar("Asked", bound=AnalysisResult[Any, Any, Any, Any], covariant=True)
_PARAMS = {"sequences.count": "sequences", "model_id": "model"}


class Asking(Protocol[Asked]):
    """The request of an analysis."""

    @property
    def stream(self) -> bool:
        """Whether it is answered with every event."""
        ...

    @property
    def format(self) -> str | None:
        """Of the picture that it is answered with."""
        ...

    def to_result(self) -> Asked:
        """The empty result of the request as the SDK writes it."""
        ...


@router.post(
    "/attention",
    response_model=schemas.AttentionAnalysis,
    responses={200: {"description": "The heads", "content": ANSWERS}},
)
async def analyze_attention(body: schemas.AttentionRequest, request: Request, client: Analysis) -> Response:
    """Describes every attention head: statistics, scores of roles, labels tested by ablation. Leaving cancels it.

    With `stream` events are plan, progress, prompt and label as they come, result, or error.
    """
    return await presented(client, body, _attention_event, _attention, param_of, request)


async def presented(
    client: AsyncAnalysisClient,
    body: Asking[Result],
    told: Callable[[Any], dict[str, Any]],
    found: Callable[[Result], dict[str, Any]],
    param: Callable[[str], str],
    request: Request,
) -> Response:
    """Runs what a request asks for, and answers in the way that it asks for; arguments are those of `answer`."""
    return await answer(client, body.to_result(), told, found, param, request, streams=body.stream, format=body.format)


async def answer(
    client: AsyncAnalysisClient,
    result: Result,
    told: Callable[[Any], dict[str, Any]],
    found: Callable[[Result], dict[str, Any]],
    param: Callable[[str], str],
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
    events = _events(client, result, told, found, param)
    if format is not None:
        async with aclosing(events):
            await while_connected(request.receive, _last(events))
        return Response(await asyncio.to_thread(_picture, result, format), media_type=_PICTURES[format])
    if not streams:
        async with aclosing(events):
            return JsonResponse(await while_connected(request.receive, _last(events)))
    first = await while_connected(request.receive, anext(events))  # so that a refusal still has its status
    frames = named_events(chained(first, events), lambda error: {"type": "error", **error})
    return StreamingResponse(frames, media_type=SSE, headers=_STREAM_HEADERS)


def _picture(result: Any, format: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"picture.{format}")
        result.plot(path)
        return path.read_bytes()


async def _last(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for event in events:
        last = event
    return {name: value for name, value in last.items() if name != "type"}


async def _events(
    client: AsyncAnalysisClient,
    result: Result,
    told: Callable[[Any], dict[str, Any]],
    found: Callable[[Result], dict[str, Any]],
    param: Callable[[str], str],
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of an analysis as JSON; the result is filled on the way."""
    try:
        async with aclosing(client.events(result)) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "progress":
                        yield {"type": "progress", **_progress(event.progress)}
                    case "result":
                        yield {"type": "result", **found(result)}
                    case _:
                        yield told(event)
    except MLXIntegrationError as error:
        error.field = param(error.field)
        raise
    result.finish()


def _progress(told: progress_pb2.AnalysisProgress) -> dict[str, Any]:
    return {
        "stage": told.stage,
        "done": told.done,
        "count": told.count,
        "elapsed_seconds": told.elapsed_seconds,
    }


def _attention_event(event: pb.AnalyzeAttentionResponse) -> dict[str, Any]:
    if event.HasField("plan"):
        plan = event.plan
        return {
            "type": "plan",
            "model": plan.model_id,
            "layers": list(plan.layers),
            "head_count": plan.head_count,
            "roles": _roles(plan),
        }
    if event.partial.HasField("label"):
        return {"type": "label", **asdict(HeadLabel.from_message(event.partial.label))}
    prompt = event.partial.prompt
    return {"type": "prompt", "prompt": prompt.prompt, "token_count": prompt.token_count}


def _attention(result: AttentionResult) -> dict[str, Any]:
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    return schemas.AttentionAnalysis(
        model=plan.model_id,
        arrays=[values_of(array) for array in result],
        roles=[schemas.RoleDefinition(**role) for role in _roles(plan)],
        labels=[schemas.HeadLabel(**asdict(label)) for label in result.labels],
        token_count=end.token_count,
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def values_of(array: LabelledArray) -> schemas.NamedValues:
    """An array as JSON."""
    coords = {dim: list(values) for dim, values in array.coords.items()}
    return schemas.NamedValues(name=array.name, dims=list(array.dims), coords=coords, values=nested(array.values))


def _roles(plan: pb.AttentionPlan) -> list[dict[str, Any]]:
    return [
        {
            "role": role_name(role.role),
            "threshold": role.threshold,
            "definition": role.definition,
            "causal_test": role.causal_test,
        }
        for role in plan.roles
    ]


def param_of(field: str) -> str:
    """The parameter of the request that a field of the contract comes from."""
    field = re.sub(r"^(prompts\[\d+\]).*$", r"\1", field)
    field = re.sub(r"^(pairs|named_pairs)\[(\d+)\](\.pair)?", r"\1[\2]", field)
    field = re.sub(r"^thresholds\[\d+\].*$", "thresholds", field)
    return _PARAMS.get(field, re.sub(r"^(sequences|causal_test)\.", "", field))
