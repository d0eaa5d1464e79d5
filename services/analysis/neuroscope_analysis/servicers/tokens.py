"""AnalysisService.TokenizePrompts."""

from __future__ import annotations

from opentelemetry.context import Context

from neuroscope.v1 import tokens_pb2 as pb
from neuroscope_analysis.inference_client import InferenceClient


class TokensServicer:
    """Tokenizes prompts."""

    def __init__(self, inference: InferenceClient) -> None:
        self._inference = inference

    async def TokenizePrompts(self, request: pb.TokenizePromptsRequest, context: Context) -> pb.TokenizePromptsResponse:
        """Tokenizes with the inference service."""
        model = await self._inference.model(request.model_id, context)
        found = await model.tokenize_prompts(request.prompts)
        return pb.TokenizePromptsResponse(
            model=model.info.model,
            prompts=[
                pb.PromptTokens(token_ids=tokens.ids, tokens=tokens.tokens, warnings=tokens.warnings)
                for tokens in found
            ],
        )
