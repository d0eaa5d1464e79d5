"""POST /v1/completions, OpenAI's older route: text and token ids in, text out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.echo import echoes
from neuroscope_gateway.schemas.completions import CompletionRequest, TextCompletion
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import EVENTS, SSE, at_once, sse, streamed
from neuroscope_gateway.text_completion import TextWriter
from neuroscope_gateway.turn import Turn

router = APIRouter(tags=["completions"], responses=ERRORS)


@router.post(
    "/v1/completions",
    response_model=TextCompletion,
    responses={200: {"description": "The completion", "content": EVENTS}},
)
async def create_completion(body: CompletionRequest, request: Request, client: Client) -> Response:
    """Continues prompts, whole or, with `stream`, as Server-Sent Events."""
    shown = await echoes(body, client)
    prompts = [echo.token_ids for echo in shown]
    reads = [
        echo.hook(range(index * body.choices, (index + 1) * body.choices), body.alternatives or 0)
        for index, echo in enumerate(shown)
        if len(echo.token_ids) > 1
    ]
    turn = Turn(client, body, prefix="cmpl-", prompts=prompts if any(prompts) else None, own_hooks=reads)
    writer = TextWriter(turn, body, shown, client)
    if body.stream:
        return await streamed(request, turn, sse(writer.chunks(include_usage=body.include_usage)), SSE)
    return await at_once(request, turn, writer.whole())
