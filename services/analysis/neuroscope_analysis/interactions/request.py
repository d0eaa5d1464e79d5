"""Validation of requests for interactions."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.experiments import Metric, cross_entropy, logit_diff
from neuroscope.v1 import interaction_pb2 as pb
from neuroscope_analysis import significance, tokenized_pairs
from neuroscope_analysis.attention.name_movers import why_no_paths
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.request import HEAD_OUTPUT
from neuroscope_analysis.layers import layers_with_component
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.significance import DEFAULT_LEAST_EFFECT, DEFAULT_SIGNIFICANCE


@dataclass(frozen=True, slots=True)
class InteractionJob:
    """A validated request."""

    model: RemoteModel
    clean: list[list[int]]
    corrupted: list[list[int]]
    metric: Metric
    sign: int
    """-1 if a lower metric is better, else 1."""
    metric_description: str
    layers: list[int]
    head_count: int
    key_value_head_count: int
    least_effect: float
    false_discovery_rate: float
    every_head: bool


async def validate(
    request: pb.MapInteractionsRequest, model: RemoteModel, settings: AnalysisSettings
) -> InteractionJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    significance.check_ranges(
        request.least_effect, request.false_discovery_rate, "least_effect", "false_discovery_rate"
    )
    layers = sorted(layers_with_component(request.layers, model, HEAD_OUTPUT, "heads whose output can be patched"))
    if request.pairs and request.HasField("sequences"):
        raise InvalidRequestError("pairs are given, and sequences stand in for pairs", field="sequences")
    if request.pairs:
        fields = [f"pairs[{index}]" for index in range(len(request.pairs))]
        tokens = await tokenized_pairs.tokenize_pairs(request.pairs, model, fields, settings.max_prompts)
        clean, corrupted = [pair.clean for pair in tokens], [pair.corrupted for pair in tokens]
        metric, sign = logit_diff([pair.answer for pair in tokens], [pair.other for pair in tokens]), 1
        text = "the logit of the answer less that of the other token, at the last position"
    else:
        sequences = RepeatedSequences.draw(request.sequences, model.info.model)
        clean, corrupted = sequences.ids, sequences.references
        metric, sign = cross_entropy().at(*sequences.predictable), -1
        text = "the cross-entropy of the second block of random sequences, in nats"
    if why := await why_no_paths(model, layers):
        raise UnavailableSiteError(f"paths cannot be patched on {model.model_id}: {why}", field="model_id")
    shapes = await model.weights("W_O", layers=layers[:1], content="plan")
    return InteractionJob(
        model,
        clean,
        corrupted,
        metric,
        sign,
        text,
        layers,
        model.info.model.num_heads,
        shapes.plan.key_value_head_count,
        request.least_effect or DEFAULT_LEAST_EFFECT,
        request.false_discovery_rate or DEFAULT_SIGNIFICANCE,
        request.every_head,
    )
