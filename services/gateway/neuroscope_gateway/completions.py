"""POST /v1/completions, OpenAI's older route: text and token ids in, text out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.schemas.completions import CompletionRequest, TextCompletion
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import EVENTS, SSE, at_once, sse, streamed
from neuroscope_gateway.text_completion import chunks, whole
from neuroscope_gateway.turn import Turn

router = APIRouter(tags=["completions"], responses=ERRORS)


@router.post(
    "/v1/completions",
    response_model=TextCompletion,
    responses={200: {"description": "The completion", "content": EVENTS}},
)
async def create_completion(body: CompletionRequest, request: Request, client: Client) -> Response:
    """Continues prompts, whole or, with `stream`, as Server-Sent Events."""
    turn = Turn(client, body, prefix="cmpl-")
    echoes = [await _text(client, prompt, body.model) if body.echo else "" for prompt in body.rows]
    if body.stream:
        frames = sse(chunks(turn, echoes, body.alternatives, include_usage=body.include_usage))
        return await streamed(request, turn, frames, SSE)
    return await at_once(request, turn, whole(turn, echoes, body.alternatives))


async def _text(client: Client, prompt: str | list[int], model: str | None) -> str:
    return prompt if isinstance(prompt, str) else await client.detokenize(prompt, model_id=model or "")
