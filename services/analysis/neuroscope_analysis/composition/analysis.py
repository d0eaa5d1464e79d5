"""A measurement of composition, from its request to its result, as the events of its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import composition_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.weights import Weights
from neuroscope.wire.codec import Event
from neuroscope_analysis import layers as of_layers
from neuroscope_analysis.composition.scores import KINDS, HeadFactors, composition_scores, random_baselines
from neuroscope_analysis.inference_client import RemoteModel
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.result_arrays import ResultArrays
from neuroscope_analysis.settings import AnalysisSettings

_MATRICES = ("W_Q", "W_K", "W_V", "W_O")
_RANDOM_PAIRS, _MAX_RANDOM_PAIRS = 64, 4096


@dataclass(frozen=True, slots=True)
class CompositionJob:
    """What is to be done."""

    model: RemoteModel
    layers: list[int]
    head_count: int
    seed: int
    random_pairs: int
    warnings: list[str]


async def validate(
    request: pb.MeasureCompositionRequest, model: RemoteModel, settings: AnalysisSettings
) -> CompositionJob:
    """Checks a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError: names the field.
    """
    count = request.random_pairs or _RANDOM_PAIRS
    if not 2 <= count <= _MAX_RANDOM_PAIRS:
        raise InvalidRequestError(f"there are 2 to {_MAX_RANDOM_PAIRS} random pairs, not {count}", field="random_pairs")
    try:
        plan = await model.weights(*_MATRICES, "norms", content="plan")
    except UnavailableSiteError as error:
        raise UnavailableSiteError(f"composition is of weights: {error.message}", field="model_id") from None
    places = set(plan.places)
    there = [layer for layer in range(plan.plan.layer_count) if {(name, layer) for name in _MATRICES} <= places]
    layers = of_layers.select_layers(request.layers, model, there, "matrices of heads")
    if len(layers) < 2:
        raise InvalidRequestError("heads compose with heads of other layers: two at least", field="layers")
    taken = await model.weights(*_MATRICES, layers=layers, content="plan")
    if taken.nbytes > settings.weights_budget_bytes:
        raise UnavailableSiteError(
            f"these layers' weights take {taken.nbytes / 1e9:.1f} GB, and the setting weights_budget_bytes allows "
            f"{settings.weights_budget_bytes / 1e9:.1f}: name fewer layers",
            field="layers",
        )
    heads = model.info.model.num_heads
    return CompositionJob(model, sorted(layers), heads, request.seed, count, _warnings(plan, layers))


class CompositionMeasurement:
    """Runs one measurement."""

    def __init__(self, job: CompositionJob) -> None:
        self._job = job
        self._shape = (len(job.layers), job.head_count) * 2
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD) * 2
        self._arrays = ResultArrays.of_shape(list(KINDS), "head_output", axes, self._shape)
        self._timer = ProgressTimer()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then the arrays, then the result."""
        job = self._job
        yield pb.MeasureCompositionResponse(
            plan=pb.CompositionPlan(
                model_id=job.model.model_id,
                layers=job.layers,
                head_count=job.head_count,
                arrays=self._arrays.plan,
                warnings=job.warnings,
            )
        )
        found = {name: np.full(self._shape, np.nan, np.float32) for name in KINDS}
        known: list[HeadFactors] = []
        async with aclosing(self._arrays.stream(self._score(known, found), lambda: found)) as scored:
            async for event in scored:
                yield event
        d_head, width = known[-1].written.shape[1:]
        drawn = await asyncio.to_thread(lambda: list(random_baselines(width, d_head, job.random_pairs, job.seed)))
        yield pb.MeasureCompositionResponse(
            result=pb.CompositionResult(
                baselines=drawn, call_count=job.model.call_count, elapsed_seconds=self._timer.elapsed_s()
            )
        )

    async def _score(
        self, known: list[HeadFactors], found: dict[str, NDArray[np.float32]]
    ) -> AsyncGenerator[Event, None]:
        """Scores of every layer with those before it."""
        job = self._job
        for place, layer in enumerate(job.layers):
            yield pb.MeasureCompositionResponse(
                progress=self._timer.progress("reading weights", place, len(job.layers))
            )
            weights = await job.model.weights(*_MATRICES, "norms", layers=[layer])
            heads = await asyncio.to_thread(HeadFactors.from_weights, weights, layer)
            for before, writers in enumerate(known):
                for name, scores in found.items():
                    block = await asyncio.to_thread(composition_scores, writers, heads, name)
                    scores[before, : block.shape[0], place, : block.shape[1]] = block
            known.append(heads)


def _warnings(plan: Weights, layers: list[int]) -> list[str]:
    """What weights alone do not say on this model."""
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
