"""What an engine has done since it started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _ignore(_: float) -> None:
    pass


@dataclass(slots=True)
class EngineCounters:
    """Counts; each has one thread that adds to it."""

    generated_tokens: int = 0
    captured_bytes: int = 0
    queue_wait_s: float = 0.0
    """Of the job that began last: from its arrival to its first piece of work."""
    observe_wait: Callable[[float], None] = _ignore
    """Told of every such wait, in seconds."""

    def record_wait(self, seconds: float) -> None:
        """A job begins."""
        self.queue_wait_s = seconds
        self.observe_wait(seconds)
