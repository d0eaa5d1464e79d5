"""JSON out: orjson, and never NaN or infinity."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    """An answer in JSON. Text that is no valid Unicode is replaced, so that even an error about it can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        return dumps(content)


def dumps(value: Any) -> bytes:
    """Compact JSON; `orjson.Fragment` goes in as it is."""
    return orjson.dumps(value)
