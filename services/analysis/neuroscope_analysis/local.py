"""In-process transports with engine and analyses, found through the entry point group `neuroscope.transports`."""

from __future__ import annotations

from typing import Any

from neuroscope.aio import AsyncClient
from neuroscope_analysis.service import AnalysisService
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_serving.local import AsyncInProcessTransport, InProcessTransport


class AsyncLocalTransport(AsyncInProcessTransport):
    """The in-process transport of the asynchronous client, for one event loop.

    Args:
        settings: settings of the inference service.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(AnalysisService(AnalysisSettings(), AsyncClient.local(**settings)))


class LocalTransport(InProcessTransport):
    """The in-process transport of the synchronous client.

    Args:
        settings: settings of the inference service.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(lambda: AsyncLocalTransport(**settings))
