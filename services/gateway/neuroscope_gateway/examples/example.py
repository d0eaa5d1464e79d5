"""The example of a route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODEL_ID = "neuroscope-tiny"


@dataclass(frozen=True, slots=True)
class Example:
    """Request and responses of a route; None if the route does not have them."""

    request: Any = None
    """The request body."""
    answer: Any = None
    """The JSON response."""
    stream: Any = None
    """One event or line of the streamed response."""
