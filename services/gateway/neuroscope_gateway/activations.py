"""POST /v1/chat/completions/with_activations: a chat completion together with what its hooks saw."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope_gateway.completion import lines, whole_with_activations
from neuroscope_gateway.requested import RequestedHooks
from neuroscope_gateway.schemas.chat import ActivationCompletion, ActivationCompletionRequest
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import NDJSON, at_once, ndjson, streamed
from neuroscope_gateway.turn import Turn

router = APIRouter(tags=["activations"], responses=ERRORS)


@router.post(
    "/v1/chat/completions/with_activations",
    response_model=ActivationCompletion,
    responses={200: {"description": "The completion", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def create_chat_completion_with_activations(
    body: ActivationCompletionRequest, request: Request, client: Client
) -> Response:
    """Answers a conversation with the activations, whole or, with `stream`, as one line of JSON for every token."""
    hooks = RequestedHooks(body.activation_hooks or ())
    turn = Turn(client, body, hooks, form=body.form, capture_id=body.capture_id)
    if body.stream:
        return await streamed(request, turn, ndjson(lines(turn)), NDJSON)
    return await at_once(request, turn, whole_with_activations(turn, logprobs=bool(body.logprobs)))
