"""The run of an analysis of the residual stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import numpy as np

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.codec import Event
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.residual import ablation, routing
from neuroscope_analysis.residual import plan as plans
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, ChunkAssembler
from neuroscope_analysis.residual.attribution import LogitTarget, logit_direction
from neuroscope_analysis.residual.flow import FlowSearch
from neuroscope_analysis.residual.head_weights import HeadWeights, PostNorm, neuron_directions, read_heads
from neuroscope_analysis.residual.lm_head import Doubles, LMHead
from neuroscope_analysis.residual.prompt_analysis import PromptAnalysis
from neuroscope_analysis.residual.request import (
    ABLATION,
    ATTRIBUTION,
    CONTRIBUTIONS,
    FLOW,
    LENS,
    ROUTING,
    ResidualJob,
)

_GRAM_BYTES = 64 * 2**20
"""Maximum memory of the Gram matrices of routing."""


class ResidualAnalysis:
    """Runs one analysis.

    Args:
        job: the validated request.
    """

    def __init__(self, job: ResidualJob) -> None:
        self._job = job
        self._arrays = plans.result_arrays(job)
        self._timer = ProgressTimer()
        self._targets: list[LogitTarget] = []
        self._heads: Mapping[int, HeadWeights] = {}
        self._findings: list[pb.ResidualPartial] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, partial results and the result."""
        job, model = self._job, self._job.model
        yield pb.AnalyzeResidualStreamResponse(plan=plans.plan_message(job, self._arrays))
        for index in range(len(job.prompts)):
            if job.needs_model_answer(index):
                yield self._progress("finding answers", index, len(job.prompts))
            self._targets.append(job.target(index, await self._most_likely_token(index)))
        if job.has_heads and set(job.parts) - {LENS, ABLATION}:
            yield self._progress("reading weights", 0, 1)
            self._heads = await read_heads(model)
        for part, events in (
            (CONTRIBUTIONS, self._analyze_prompts),
            (ROUTING, self._routing),
            (ABLATION, self._ablation),
            (FLOW, self._flow),
        ):
            if part in job.parts or (part == CONTRIBUTIONS and set(job.parts) & {ATTRIBUTION, LENS}):
                async with aclosing(events()) as found:
                    async for event in found:
                        yield event
        yield pb.AnalyzeResidualStreamResponse(
            result=pb.ResidualEnd(
                token_count=model.token_count,
                call_count=model.call_count,
                elapsed_seconds=self._timer.elapsed_s(),
                findings=self._findings,
            )
        )

    async def _most_likely_token(self, prompt: int) -> int | None:
        """The model's top token at the position, if the request names no answer."""
        job = self._job
        if not job.needs_model_answer(prompt):
            return None
        found: list[int] = []

        async def use(chunk: ActivationChunk) -> None:
            found.append(int(chunk.array("logits").argmax(axis=-1)[0]))

        reader = ChunkAssembler(use)
        await job.model.capture(
            job.prompts[prompt].ids,
            [Hook("logits", positions=[job.positions[prompt]], dtype="float32")],
            lambda: reader.reset().add,
            what="finding what the model finds likeliest",
        )
        await reader.finish()
        return found[-1]

    async def _analyze_prompts(self) -> AsyncGenerator[Event, None]:
        """Contributions, attribution and lenses of each prompt, from one capture."""
        job, count = self._job, len(self._job.prompts)
        end = await LMHead.read(job.model) if ATTRIBUTION in job.parts else None
        neurons: dict[int, tuple[Doubles, PostNorm]] = {}
        if end is not None:
            directions = np.stack([logit_direction(end, target) for target in self._targets])
            for done, layer in enumerate(job.neuron_layers):
                yield self._progress("reading neurons", done, len(job.neuron_layers))
                neurons[layer] = await neuron_directions(job.model, layer, directions)
        for index in range(count):
            yield self._progress("reading prompts", index, count)
            reading = PromptAnalysis(job, index, self._targets[index], self._heads, end, neurons)
            await reading.run(f"reading prompt {index + 1} of {count}")
            for frame in self._arrays.frames(reading.arrays(), index):
                yield frame
            async for partial in reading.partials():
                yield self._partial(partial)

    async def _routing(self) -> AsyncGenerator[Event, None]:
        """Routing of each prompt, a group of layers at a time."""
        job, count = self._job, len(self._job.prompts)
        for index, tokens in enumerate(job.prompts):
            of_layer = 4 * len(tokens) * max(len(each.output) for each in self._heads.values()) ** 2
            together = max(1, _GRAM_BYTES // of_layer)
            queries, layers = job.queries[index], sorted(self._heads)
            by_head = job.request.routing.by_head
            routes = routing.RouteNorms(self._heads, job.components.layer_count, queries, len(tokens), by_head=by_head)
            for first in range(0, len(layers), together):
                yield self._progress("reading routes", index, count)
                await self._route_layer_group(index, routes, layers[first : first + together])
                routes.clear()
            for frame in self._arrays.frames(routes.arrays, index):
                yield frame
            yield self._partial(pb.ResidualPartial(routed=pb.RoutedPrompt(prompt=index)))

    async def _route_layer_group(self, prompt: int, routes: routing.RouteNorms, layers: list[int]) -> None:
        reader = ChunkAssembler.in_thread(routes.add)
        await self._job.model.capture(
            self._job.prompts[prompt].ids,
            routing.hooks(layers, self._job.queries[prompt], self._heads),
            lambda: reader.reset().add,
            what=f"reading routes of prompt {prompt + 1}",
        )
        await reader.finish()

    async def _ablation(self) -> AsyncGenerator[Event, None]:
        """Ablation effects of all prompts, from one sweep."""
        job = self._job
        yield self._progress("ablating layers", 0, 1)
        found, metrics = await ablation.ablation_effects(
            job.model,
            [tokens.ids for tokens in job.prompts],
            job.request.ablation.references,
            self._targets,
            job.position,
        )
        for index, arrays in enumerate(found):
            for frame in self._arrays.frames(arrays, index):
                yield frame
            ablated = pb.AblatedPrompt(prompt=index, metric=metrics[index])
            yield self._partial(pb.ResidualPartial(ablated=ablated))

    async def _flow(self) -> AsyncGenerator[Event, None]:
        """The information flow of each pair."""
        job = self._job
        flow = FlowSearch(job.model, job.components, self._heads, job.limits)
        for index, (clean, corrupted) in enumerate(zip(job.prompts, job.corrupted, strict=True)):
            metric = ablation.answer_metric([self._targets[index]], job.position)
            async with aclosing(flow.search(index, (clean.ids, corrupted.ids), metric)) as steps:
                async for step in steps:
                    if isinstance(step, tuple):
                        yield self._progress(*step)
                    else:
                        yield self._partial(pb.ResidualPartial(flow=step))

    def _partial(self, finding: pb.ResidualPartial) -> pb.AnalyzeResidualStreamResponse:
        self._findings.append(finding)
        return pb.AnalyzeResidualStreamResponse(partial=finding)

    def _progress(self, stage: str, done: int, count: int) -> pb.AnalyzeResidualStreamResponse:
        return pb.AnalyzeResidualStreamResponse(progress=self._timer.progress(stage, done, count))
