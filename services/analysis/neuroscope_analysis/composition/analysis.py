"""The run of a measurement of composition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import composition_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.composition.request import MATRICES, CompositionJob
from neuroscope_analysis.composition.scores import KINDS, HeadFactors, composition_scores, random_baselines
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.result_arrays import ResultArrays


class CompositionMeasurement:
    """Runs one measurement."""

    def __init__(self, job: CompositionJob) -> None:
        self._job = job
        self._shape = (len(job.layers), job.head_count) * 2
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD) * 2
        self._arrays = ResultArrays.of_shape(list(KINDS), "head_output", axes, self._shape)
        self._timer = ProgressTimer()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, the arrays and the result."""
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
        """Scores each layer with all earlier layers."""
        job = self._job
        for place, layer in enumerate(job.layers):
            yield pb.MeasureCompositionResponse(
                progress=self._timer.progress("reading weights", place, len(job.layers))
            )
            weights = await job.model.weights(*MATRICES, "norms", layers=[layer])
            heads = await asyncio.to_thread(HeadFactors.from_weights, weights, layer)
            for before, writers in enumerate(known):
                for name, scores in found.items():
                    block = await asyncio.to_thread(composition_scores, writers, heads, name)
                    scores[before, : block.shape[0], place, : block.shape[1]] = block
            known.append(heads)
