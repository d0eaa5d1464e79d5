"""One example of a route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODEL_ID = "neuroscope-tiny"


@dataclass(frozen=True, slots=True)
class Example:
    """What a route takes and answers; None where it takes nothing, or answers no such thing."""

    request: Any = None
    """The body."""
    answer: Any = None
    """The answer in JSON."""
    stream: Any = None
    """A piece of the answer as a stream: an event of SSE, or a line."""
