"""POST /v1/chat/completions: OpenAI's Chat Completions API."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.generation.generation_response import generation_response, generation_stream_response
from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.event_stream import SSE, SSE_CONTENT, sse_events
from neuroscope_gateway.openai.chat_completion import chat_completion, chat_completion_chunks
from neuroscope_gateway.schemas.chat import ChatCompletion, ChatCompletionRequest

router = APIRouter(tags=["chat"], responses=ERROR_RESPONSES)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"description": "The completion", "content": SSE_CONTENT}},
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, client: InferenceDep) -> Response:
    """Creates a chat completion; with `stream`, as Server-Sent Events."""
    generation = TextGeneration(client, body)
    if body.stream:
        return await generation_stream_response(
            request, generation, sse_events(chat_completion_chunks(generation, include_usage=body.include_usage)), SSE
        )
    return await generation_response(request, generation, chat_completion(generation, logprobs=bool(body.logprobs)))
