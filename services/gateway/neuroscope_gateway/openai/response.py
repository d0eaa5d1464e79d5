"""OpenAI's Responses API: the response, or the events of its stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.schemas.responses import ResponseRequest


class ResponseWriter:
    """The response of one generation while it grows."""

    def __init__(self, generation: TextGeneration, request: ResponseRequest) -> None:
        self._generation = generation
        self._request = request
        self._message_id = f"msg_{uuid.uuid4().hex}"
        self._texts: list[str] = []
        self._status = "in_progress"
        self._sequence = 0

    async def response(self) -> dict[str, Any]:
        """The `response` object, after the generation."""
        async for _ in self.events():
            pass
        return self._response()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The events of the stream, in OpenAI's order."""
        where = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self._response())
        yield self._event("response.in_progress", response=self._response())
        empty: dict[str, Any] = self._message() | {"content": []}
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._event("response.content_part.added", **where, part=self._part())
        reason = "stop"
        async with aclosing(self._generation.deltas()) as deltas:
            async for delta in deltas:
                reason = delta.finish_reason or reason
                if delta.text:
                    self._texts.append(delta.text)
                    yield self._event("response.output_text.delta", **where, delta=delta.text, logprobs=[])
        self._status = "completed" if reason == "stop" else "incomplete"
        yield self._event("response.output_text.done", **where, text=self._text(), logprobs=[])
        yield self._event("response.content_part.done", **where, part=self._part())
        yield self._event("response.output_item.done", output_index=0, item=self._message())
        yield self._event(f"response.{self._status}", response=self._response())

    def error_event(self, error: dict[str, Any]) -> dict[str, Any]:
        """The event that ends a failed stream."""
        details: dict[str, Any] = error["error"]
        return self._event("error", code=details["code"], message=details["message"], param=details["param"])

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return event

    def _text(self) -> str:
        return "".join(self._texts)

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text(), "annotations": [], "logprobs": []}

    def _message(self) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._message_id,
            "status": self._status,
            "role": "assistant",
            "content": [self._part()],
        }

    def _response(self) -> dict[str, Any]:
        request, ended = self._request, self._status != "in_progress"
        return {
            "id": self._generation.id,
            "object": "response",
            "created_at": self._generation.created,
            "status": self._status,
            "model": self._generation.model,
            "output": [self._message()] if ended else [],
            "usage": self._usage() if ended else None,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "error": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature or 0.0,
            "top_p": request.top_p or 1.0,
            "metadata": request.metadata or {},
            "parallel_tool_calls": False if request.parallel_tool_calls is None else request.parallel_tool_calls,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
        }

    def _usage(self) -> dict[str, Any]:
        usage = self._generation.usage
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
