"""Validation of requests for composition scores."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import composition_pb2 as pb
from neuroscope.weights import Weights
from neuroscope_analysis import layers as of_layers
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.settings import AnalysisSettings

MATRICES = ("W_Q", "W_K", "W_V", "W_O")
_RANDOM_PAIRS, _MAX_RANDOM_PAIRS = 64, 4096


@dataclass(frozen=True, slots=True)
class CompositionJob:
    """A validated request."""

    model: RemoteModel
    layers: list[int]
    head_count: int
    seed: int
    random_pairs: int
    warnings: list[str]


async def validate(
    request: pb.MeasureCompositionRequest, model: RemoteModel, settings: AnalysisSettings
) -> CompositionJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError: `field` is the offending field.
    """
    count = request.random_pairs or _RANDOM_PAIRS
    if not 2 <= count <= _MAX_RANDOM_PAIRS:
        raise InvalidRequestError(f"there are 2 to {_MAX_RANDOM_PAIRS} random pairs, not {count}", field="random_pairs")
    try:
        plan = await model.weights(*MATRICES, "norms", content="plan")
    except UnavailableSiteError as error:
        raise UnavailableSiteError(f"composition is of weights: {error.message}", field="model_id") from None
    places = set(plan.places)
    there = [layer for layer in range(plan.plan.layer_count) if {(name, layer) for name in MATRICES} <= places]
    layers = of_layers.select_layers(request.layers, model, there, "matrices of heads")
    if len(layers) < 2:
        raise InvalidRequestError("heads compose with heads of other layers: two at least", field="layers")
    taken = await model.weights(*MATRICES, layers=layers, content="plan")
    if taken.nbytes > settings.weights_budget_bytes:
        raise UnavailableSiteError(
            f"these layers' weights take {taken.nbytes / 1e9:.1f} GB, and the setting weights_budget_bytes allows "
            f"{settings.weights_budget_bytes / 1e9:.1f}: name fewer layers",
            field="layers",
        )
    heads = model.info.model.num_heads
    return CompositionJob(model, sorted(layers), heads, request.seed, count, _warnings(plan, layers))


def _warnings(plan: Weights, layers: list[int]) -> list[str]:
    """What composition scores do not account for on this model."""
    facts = [plan.layer(layer) for layer in layers]
    found: list[str] = []
    if any(fact.is_rotary for fact in facts):
        found.append("Q and K: queries and keys are turned by their positions; scores are of one and the same")
    if any(fact.has_query_norm for fact in facts):
        found.append("Q and K: queries and keys are normed, so that their size, which the scores count, is not used")
    if "ln1_post.w" in plan.names:
        found.append("what heads write goes through a norm together; its gain is counted, what it divides by is not")
    outputs = (spec for spec in plan.plan.tensors.tensors if spec.hook_id == "W_O" and spec.site.layer in layers)
    widths = sorted({spec.shape[-2] for spec in outputs})
    if len(widths) > 1:
        wide = ", ".join(map(str, widths))
        found.append(f"heads are {wide} wide; random ones are as wide as those of the last layer")
    return found
