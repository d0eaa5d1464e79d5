"""POST /v1/responses: text in, text out. Nothing is stored, so that there is nothing to get, list or delete."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.response import ResponseWriter
from neuroscope_gateway.schemas.responses import ResponseObject, ResponseRequest
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import EVENTS, SSE, at_once, named_events, streamed
from neuroscope_gateway.turn import Turn

router = APIRouter(tags=["responses"], responses=ERRORS)


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses={200: {"description": "The response", "content": EVENTS}},
)
async def create_response(body: ResponseRequest, request: Request, client: Client) -> Response:
    """Answers an input, whole or, with `stream`, as OpenAI's named events."""
    turn = Turn(client, body, prefix="resp_")
    writer = ResponseWriter(turn, body)
    if body.stream:
        return await streamed(request, turn, named_events(writer.events(), writer.failed), SSE)
    return await at_once(request, turn, writer.whole())
