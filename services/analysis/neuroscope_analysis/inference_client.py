"""The inference service, as analyses call it."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.context import Context

from neuroscope.aio import AsyncClient
from neuroscope_analysis.remote_model import RemoteModel, use_context


@dataclass(frozen=True, slots=True)
class InferenceClient:
    """Calls the inference service.

    Args:
        client: the SDK's client.
        target: the address of the service, for errors.
        chunk_budget_bytes: bytes of activations in one chunk of a prompt.
    """

    client: AsyncClient
    target: str
    chunk_budget_bytes: int

    async def model(self, model_id: str, context: Context) -> RemoteModel:
        """A loaded model.

        Args:
            model_id: empty for the model that was loaded first.
            context: trace context of the calling span.

        Raises:
            ModelNotFoundError, NeuroScopeIntegrationError
        """
        with use_context(context):
            info = await self.client.model(model_id)
        return RemoteModel(self.client, self.target, info, context, chunk_budget_bytes=self.chunk_budget_bytes)
