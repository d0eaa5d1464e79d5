"""POST /v1/completions: OpenAI's legacy Completions API."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.generation.generation_response import generation_response, generation_stream_response
from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.event_stream import SSE, SSE_CONTENT, sse_events
from neuroscope_gateway.openai.prompt_echo import prompt_echoes
from neuroscope_gateway.openai.text_completion import TextCompletionWriter
from neuroscope_gateway.schemas.completions import CompletionRequest, TextCompletion

router = APIRouter(tags=["completions"], responses=ERROR_RESPONSES)


@router.post(
    "/v1/completions",
    response_model=TextCompletion,
    responses={200: {"description": "The completion", "content": SSE_CONTENT}},
)
async def create_completion(body: CompletionRequest, request: Request, client: InferenceDep) -> Response:
    """Creates text completions; with `stream`, as Server-Sent Events."""
    shown = await prompt_echoes(body, client)
    prompts = [echo.token_ids for echo in shown]
    reads = [
        echo.hook(range(index * body.choice_count, (index + 1) * body.choice_count), body.top_logprob_count or 0)
        for index, echo in enumerate(shown)
        if len(echo.token_ids) > 1
    ]
    generation = TextGeneration(
        client, body, prefix="cmpl-", prompts=prompts if any(prompts) else None, gateway_hooks=reads
    )
    writer = TextCompletionWriter(generation, body, shown, client)
    if body.stream:
        return await generation_stream_response(
            request, generation, sse_events(writer.chunks(include_usage=body.include_usage)), SSE
        )
    return await generation_response(request, generation, writer.completion())
