"""The asynchronous client; its methods are those of `neuroscope.client.Client`.

    async with AsyncClient() as client:
        async for token in client.generate("The capital of France is", hooks=["resid_post"], max_tokens=8):
            print(token.text, end="")

`neuroscope.calls.inference` defines the methods of both clients; `neuroscope.base_client` runs them.
"""

from __future__ import annotations

from neuroscope.base_client.client import AsyncBaseClient
from neuroscope.calls.dictionaries import AsyncDictionaries
from neuroscope.calls.inference import InferenceCalls
from neuroscope.calls.running_generation import AsyncGeneration


class AsyncClient(InferenceCalls, AsyncBaseClient):
    """Calls an inference service, on one event loop. It has the methods of `Client` as coroutines."""

    _generation_type = AsyncGeneration

    @property
    def dictionaries(self) -> AsyncDictionaries:
        """Sparse autoencoders and transcoders of the loaded models; see `neuroscope.dictionaries`."""
        return AsyncDictionaries(self)
