"""Validation of requests for comparisons."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis.attention.pattern_capture import ATTENTION_PATTERN
from neuroscope_analysis.comparison.alignment import Alignment, align
from neuroscope_analysis.layers import layers_with_component
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.settings import AnalysisSettings


@dataclass(frozen=True, slots=True)
class ComparisonJob:
    """A validated request."""

    model: RemoteModel
    prompts: tuple[Tokens, Tokens]
    layers: list[int]
    head_count: int
    alignment: Alignment


async def validate(
    request: pb.CompareAttentionRequest, model: RemoteModel, settings: AnalysisSettings
) -> ComparisonJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    layers = layers_with_component(request.layers, model, ATTENTION_PATTERN, "attention patterns")
    first = await model.tokenize_prompt(request.first, "first")
    second = await model.tokenize_prompt(request.second, "second")
    aligned = align(first.ids, second.ids, request.alignment)
    return ComparisonJob(model, (first, second), layers, model.info.model.num_heads, aligned)
