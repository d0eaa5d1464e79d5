"""The run of a tuned lens training."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import tuned_lens_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.model_info import Tokens
from neuroscope.wire.codec import Event
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, ChunkAssembler, Floats
from neuroscope_analysis.residual.components import RESID_POST
from neuroscope_analysis.residual.lens import stream_points
from neuroscope_analysis.residual.lm_head import LMHead
from neuroscope_analysis.result_arrays import ArraySpec, ResultArrays
from neuroscope_analysis.tuned_lens.kl_optimizer import KLOptimizer
from neuroscope_analysis.tuned_lens.regression_sums import RegressionSums
from neuroscope_analysis.tuned_lens.request import KL, TrainingJob

WEIGHT, BIAS = "weight", "bias"
_PROJECTED_BYTES = 8 * 2**20


@dataclass(slots=True)
class _FittedTranslator:
    """The fitted translator of one point.

    Args:
        ridge: weight and bias of the ridge solution.
        kept: weight and bias of the lens.
        iterations: L-BFGS iterations.
        divergences: sums of KL over held-out tokens: logit lens, tuned lens, ridge solution.
    """

    ridge: tuple[Floats, Floats]
    kept: tuple[Floats, Floats]
    iterations: int = 0
    divergences: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


class TunedLensTraining:
    """Runs one training.

    Args:
        job: the validated request.
    """

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        self._places = stream_points(job.point_count)
        width = job.model.info.model.d_model
        d_model = tensor_pb2.AXIS_D_MODEL
        self._arrays = ResultArrays(
            [
                ArraySpec(WEIGHT, RESID_POST, (d_model, d_model), (width, width)),
                ArraySpec(BIAS, RESID_POST, (d_model,), (width,)),
            ]
        )
        self._timer = ProgressTimer()
        self._layers: list[pb.TunedLayer] = []
        self._stop = threading.Event()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, the translators and the result."""
        job, model = self._job, self._job.model
        yield pb.TrainTunedLensResponse(plan=self._plan())
        end = await LMHead.read(model) if job.objective == KL else None
        try:
            for first in range(0, job.point_count, job.points_per_pass):
                points = range(first, min(first + job.points_per_pass, job.point_count))
                async for event in self._train(list(points), end):
                    yield event
        finally:
            self._stop.set()
        yield pb.TrainTunedLensResponse(
            result=pb.TunedLensEnd(
                layers=self._layers,
                token_count=model.token_count,
                call_count=model.call_count,
                elapsed_seconds=self._timer.elapsed_s(),
            )
        )

    async def _train(self, points: Sequence[int], end: LMHead | None) -> AsyncGenerator[Event, None]:
        """Trains the translators of some points."""
        job = self._job
        width = job.model.info.model.d_model
        moments = RegressionSums(points, job.point_count, width, job.sample)
        for index, tokens in enumerate(job.training):
            yield self._progress("reading texts", index, len(job.training))
            await self._capture_text(tokens, points, ChunkAssembler.in_thread(moments.add))
        found: dict[int, _FittedTranslator] = {}
        for index, point in enumerate(points):
            yield self._progress("fitting translators", index, len(points))
            ridge = await asyncio.to_thread(moments.ridge, point, job.ridge)
            found[point] = _FittedTranslator(ridge, ridge)
            if end is not None:
                descent = KLOptimizer(end, job.ridge, job.iterations, self._stop)
                sample, final = (
                    array[: moments.sample_count] for array in (moments.sample[point], moments.sample_final)
                )
                weight, bias, steps = await asyncio.to_thread(descent.minimize, sample, final, *ridge)
                found[point] = _FittedTranslator(ridge, (weight, bias), steps)
        for index, tokens in enumerate(job.held_out):
            yield self._progress("testing translators", index, len(job.held_out))
            await self._capture_text(tokens, points, ChunkAssembler(self._kl_consumer(found)))
        held_out = sum(map(len, job.held_out))
        for point, each in found.items():
            before, after, ridge_after = (total / held_out for total in each.divergences)
            layer = pb.TunedLayer(
                point=point,
                held_out_kl_before=before,
                held_out_kl_after=after,
                held_out_kl_ridge=ridge_after,
                iterations=each.iterations,
            )
            self._layers.append(layer)
            for frame in self._arrays.frames({WEIGHT: each.kept[0], BIAS: each.kept[1]}, point):
                yield frame
            yield pb.TrainTunedLensResponse(partial=layer)

    async def _capture_text(self, tokens: Tokens, points: Sequence[int], reader: ChunkAssembler) -> None:
        last = self._job.point_count
        places = [self._places[point] for point in (*points, last)]
        await self._job.model.capture(
            tokens.ids,
            [Hook(component, layer, dtype="float32") for component, layer in places],
            lambda: reader.reset().add,
            what="reading texts",
        )
        await reader.finish()

    def _kl_consumer(self, found: dict[int, _FittedTranslator]) -> Callable[[ActivationChunk], Awaitable[None]]:
        """Returns a consumer of chunks that accumulates held-out divergences."""

        async def use(chunk: ActivationChunk) -> None:
            final = chunk.array(*self._places[-1])
            some = max(1, _PROJECTED_BYTES // final[:1].nbytes)
            for point, each in found.items():
                stream = chunk.array(*self._places[point])
                is_ridge = each.kept is each.ridge
                maps = [None, each.kept, *([] if is_ridge else [each.ridge])]
                sums = [await self._divergence(stream, final, one, some) for one in maps]
                sums += sums[1:] if is_ridge else []
                each.divergences = [before + more for before, more in zip(each.divergences, sums, strict=True)]

        return use

    async def _divergence(self, stream: Floats, final: Floats, one: tuple[Floats, Floats] | None, some: int) -> float:
        """The sum of KL(model || lens) over tokens."""
        total = 0.0
        for first in range(0, len(stream), some):
            part = stream[first : first + some]
            translated = part if one is None else part + part @ one[0] + one[1]
            seen = await self._job.model.project(
                np.ascontiguousarray(translated, np.float32),
                "testing translators",
                top_k=0,
                reference=final[first : first + some],
            )
            assert seen.kl is not None
            total += float(seen.kl.sum(dtype=np.float64))
        return total

    def _plan(self) -> pb.TunedLensPlan:
        job = self._job
        return pb.TunedLensPlan(
            model_id=job.model.model_id,
            arrays=self._arrays.plan,
            point_count=job.point_count,
            training_token_count=sum(map(len, job.training)),
            held_out_token_count=sum(map(len, job.held_out)),
            objective=job.objective,
            marks=job.marks,
            ridge=job.ridge,
            texts_sha256=job.texts_sha256,
            warnings=list(
                dict.fromkeys(
                    [
                        *job.warnings,
                        *(warning for tokens in (*job.training, *job.held_out) for warning in tokens.warnings),
                    ]
                )
            ),
        )

    def _progress(self, stage: str, done: int, count: int) -> pb.TrainTunedLensResponse:
        return pb.TrainTunedLensResponse(progress=self._timer.progress(stage, done, count))
