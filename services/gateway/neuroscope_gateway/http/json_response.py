"""JSON responses by orjson, without NaN and infinity."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of the response."""
        return dumps(content)


def dumps(value: Any) -> bytes:
    """Compact JSON; `orjson.Fragment` is inserted unchanged."""
    return orjson.dumps(value)
