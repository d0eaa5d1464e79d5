"""AnalysisService.TokenizePrompts."""

from __future__ import annotations

from opentelemetry.context import Context

from neuroscope.v1 import tokens_pb2 as pb
from neuroscope_analysis.upstream import Upstream


class TokensServicer:
    """Cuts prompts into tokens."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def TokenizePrompts(self, request: pb.TokenizePromptsRequest, context: Context) -> pb.TokenizePromptsResponse:
        """Asks the inference service."""
        model = await self._upstream.model(request.model_id, context)
        found = await model.tokenize(request.prompts)
        return pb.TokenizePromptsResponse(
            model=model.info.model,
            prompts=[
                pb.PromptTokens(token_ids=tokens.ids, tokens=tokens.tokens, warnings=tokens.warnings)
                for tokens in found
            ],
        )
