"""POST /v1/chat/completions, as OpenAI's clients know it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.completion import chunks, whole
from neuroscope_gateway.schemas.chat import ChatCompletion, ChatCompletionRequest
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import EVENTS, SSE, at_once, sse, streamed
from neuroscope_gateway.turn import Turn

router = APIRouter(tags=["chat"], responses=ERRORS)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"description": "The completion", "content": EVENTS}},
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, client: Client) -> Response:
    """Answers a conversation, whole or, with `stream`, as Server-Sent Events."""
    turn = Turn(client, body)
    if body.stream:
        return await streamed(request, turn, sse(chunks(turn, include_usage=body.include_usage)), SSE)
    return await at_once(request, turn, whole(turn, logprobs=bool(body.logprobs)))
