"""POST /v1/responses: OpenAI's Responses API for text. Nothing is stored, so responses cannot be retrieved or
deleted."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.generation.generation_response import generation_response, generation_stream_response
from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.event_stream import SSE, SSE_CONTENT, named_sse_events
from neuroscope_gateway.openai.response import ResponseWriter
from neuroscope_gateway.schemas.responses import ResponseObject, ResponseRequest

router = APIRouter(tags=["responses"], responses=ERROR_RESPONSES)


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses={200: {"description": "The response", "content": SSE_CONTENT}},
)
async def create_response(body: ResponseRequest, request: Request, client: InferenceDep) -> Response:
    """Creates a response; with `stream`, as OpenAI's named events."""
    generation = TextGeneration(client, body, prefix="resp_")
    writer = ResponseWriter(generation, body)
    if body.stream:
        return await generation_stream_response(
            request, generation, named_sse_events(writer.events(), writer.error_event), SSE
        )
    return await generation_response(request, generation, writer.response())
