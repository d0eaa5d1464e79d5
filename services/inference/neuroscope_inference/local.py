"""The engine in the caller's own process; found through the entry point group `neuroscope.transports`."""

from __future__ import annotations

from typing import Any

from neuroscope.serving.local import AsyncInProcessTransport, InProcessTransport
from neuroscope_inference.service import InferenceService
from neuroscope_inference.settings import InferenceSettings


class AsyncLocalTransport(AsyncInProcessTransport):
    """The in-process transport for the asynchronous client; use it on one event loop.

    Args:
        settings: fields of `InferenceSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(InferenceService(InferenceSettings(**settings)))


class LocalTransport(InProcessTransport):
    """The in-process transport for the synchronous client.

    Args:
        settings: fields of `InferenceSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(lambda: AsyncLocalTransport(**settings))
