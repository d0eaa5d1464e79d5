"""Responses to unhandled exceptions."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope_gateway.http.errors import internal_error_json
from neuroscope_gateway.http.json_response import JsonResponse


class ServerErrorMiddleware:
    """Returns 500 as JSON for an unhandled exception, unless the response has started."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def tracking(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, tracking)
        except Exception as error:
            answer = JsonResponse(internal_error_json(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            if started:  # the status is sent; closing the connection tells the client
                raise
            await answer(scope, receive, send)
