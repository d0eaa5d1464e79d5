"""POST /v1/chat/completions/with_activations: chat completions with activations."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.generation.generation_response import generation_response, generation_stream_response
from neuroscope_gateway.generation.request_hooks import RequestHooks
from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.event_stream import NDJSON, ndjson_lines
from neuroscope_gateway.openai.chat_completion import activation_lines, chat_completion_with_activations
from neuroscope_gateway.schemas.chat import ActivationCompletion, ActivationCompletionRequest

router = APIRouter(tags=["activations"], responses=ERROR_RESPONSES)


@router.post(
    "/v1/chat/completions/with_activations",
    response_model=ActivationCompletion,
    responses={200: {"description": "The completion", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def create_chat_completion_with_activations(
    body: ActivationCompletionRequest, request: Request, client: InferenceDep
) -> Response:
    """Creates a chat completion with activations; with `stream`, one line of JSON for each token."""
    hooks = RequestHooks(body.activation_hooks or ())
    generation = TextGeneration(client, body, hooks, format=body.format, capture_id=body.capture_id)
    if body.stream:
        return await generation_stream_response(request, generation, ndjson_lines(activation_lines(generation)), NDJSON)
    return await generation_response(
        request, generation, chat_completion_with_activations(generation, logprobs=bool(body.logprobs))
    )
