"""An analysis of the residual stream from its request to its result, as the events of its stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import numpy as np

from neuroscope.v1 import progress_pb2
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.codec import Event
from neuroscope_analysis.residual import ablation, routing
from neuroscope_analysis.residual import plan as plans
from neuroscope_analysis.residual.attribution import Asked, logit_direction
from neuroscope_analysis.residual.chunks import Chunk, ChunkReader
from neuroscope_analysis.residual.end import Doubles, ModelEnd
from neuroscope_analysis.residual.flow import Flow
from neuroscope_analysis.residual.prompt import PromptReading
from neuroscope_analysis.residual.request import (
    ABLATION,
    ATTRIBUTION,
    CONTRIBUTIONS,
    FLOW,
    LENS,
    ROUTING,
    ResidualWork,
)
from neuroscope_analysis.residual.writers import Behind, LayerHeads, neuron_directions, read_heads

_GRAM_BYTES = 64 * 2**20
"""What routing holds of the values of the layers that it looks at together."""


class ResidualAnalysis:
    """Runs one analysis.

    Args:
        work: what is to be done.
        chunk_budget_bytes: activations of one chunk of a prompt.
    """

    def __init__(self, work: ResidualWork, chunk_budget_bytes: int) -> None:
        self._work = work
        self._chunk_budget_bytes = chunk_budget_bytes
        self._arrays = plans.planned(work)
        self._began_s = time.monotonic()
        self._asked: list[Asked] = []
        self._heads: Mapping[int, LayerHeads] = {}
        self._findings: list[pb.ResidualPartial] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then what is found, then the result."""
        work, model = self._work, self._work.model
        yield pb.AnalyzeResidualStreamResponse(plan=plans.plan(work, self._arrays))
        for index in range(len(work.prompts)):
            if work.needs_answer(index):
                yield self._progress("finding answers", index, len(work.prompts))
            self._asked.append(work.asked(index, await self._likeliest(index)))
        if work.has_heads and set(work.parts) - {LENS, ABLATION}:
            yield self._progress("reading weights", 0, 1)
            self._heads = await read_heads(model)
        for part, events in (
            (CONTRIBUTIONS, self._read),
            (ROUTING, self._route),
            (ABLATION, self._ablate),
            (FLOW, self._follow),
        ):
            if part in work.parts or (part == CONTRIBUTIONS and set(work.parts) & {ATTRIBUTION, LENS}):
                async with aclosing(events()) as found:
                    async for event in found:
                        yield event
        yield pb.AnalyzeResidualStreamResponse(
            result=pb.ResidualEnd(
                token_count=model.token_count,
                call_count=model.call_count,
                elapsed_seconds=self._elapsed_s(),
                findings=self._findings,
            )
        )

    async def _likeliest(self, prompt: int) -> int | None:
        """What the model finds likeliest at the position, where no answer is named."""
        work = self._work
        if not work.needs_answer(prompt):
            return None
        found: list[int] = []

        async def use(chunk: Chunk) -> None:
            found.append(int(chunk.of("logits").argmax(axis=-1)[0]))

        reader = ChunkReader(use)
        await work.model.read(
            work.prompts[prompt].ids,
            [Hook("logits", positions=[work.positions[prompt]], dtype="float32")],
            lambda: reader.begin().add,
            chunk_budget_bytes=self._chunk_budget_bytes,
            what="finding what the model finds likeliest",
        )
        await reader.finish()
        return found[-1]

    async def _read(self) -> AsyncGenerator[Event, None]:
        """Contributions, attribution and lenses of every prompt, in one reading of each."""
        work, count = self._work, len(self._work.prompts)
        end = await ModelEnd.read(work.model) if ATTRIBUTION in work.parts else None
        neurons: dict[int, tuple[Doubles, Behind]] = {}
        if end is not None:
            directions = np.stack([logit_direction(end, asked) for asked in self._asked])
            for done, layer in enumerate(work.neuron_layers):
                yield self._progress("reading neurons", done, len(work.neuron_layers))
                neurons[layer] = await neuron_directions(work.model, layer, directions)
        for index in range(count):
            yield self._progress("reading prompts", index, count)
            reading = PromptReading(work, index, self._asked[index], self._heads, end, neurons)
            await reading.run(self._chunk_budget_bytes, f"reading prompt {index + 1} of {count}")
            for frame in self._arrays.frames(reading.arrays(), index):
                yield frame
            async for partial in reading.partials():
                yield self._found(partial)

    async def _route(self) -> AsyncGenerator[Event, None]:
        """Routes of every prompt, some layers at a time."""
        work, count = self._work, len(self._work.prompts)
        for index, tokens in enumerate(work.prompts):
            of_layer = 4 * len(tokens) * max(len(each.output) for each in self._heads.values()) ** 2
            together = max(1, _GRAM_BYTES // of_layer)
            queries, layers = work.queries[index], sorted(self._heads)
            by_head = work.request.routing.by_head
            routes = routing.Routes(self._heads, work.components.layer_count, queries, len(tokens), by_head=by_head)
            for first in range(0, len(layers), together):
                yield self._progress("reading routes", index, count)
                await self._route_layers(index, routes, layers[first : first + together])
                routes.forget()
            for frame in self._arrays.frames(routes.arrays, index):
                yield frame
            yield self._found(pb.ResidualPartial(routed=pb.RoutedPrompt(prompt=index)))

    async def _route_layers(self, prompt: int, routes: routing.Routes, layers: list[int]) -> None:
        reader = ChunkReader.in_thread(routes.add)
        await self._work.model.read(
            self._work.prompts[prompt].ids,
            routing.hooks(layers, self._work.queries[prompt], self._heads),
            lambda: reader.begin().add,
            chunk_budget_bytes=self._chunk_budget_bytes,
            what=f"reading routes of prompt {prompt + 1}",
        )
        await reader.finish()

    async def _ablate(self) -> AsyncGenerator[Event, None]:
        """Effects of ablating layers, of all prompts in one sweep."""
        work = self._work
        yield self._progress("ablating layers", 0, 1)
        found, metrics = await ablation.effects(
            work.model,
            [tokens.ids for tokens in work.prompts],
            work.request.ablation.references,
            self._asked,
            work.position,
        )
        for index, arrays in enumerate(found):
            for frame in self._arrays.frames(arrays, index):
                yield frame
            ablated = pb.AblatedPrompt(prompt=index, metric=metrics[index])
            yield self._found(pb.ResidualPartial(ablated=ablated))

    async def _follow(self) -> AsyncGenerator[Event, None]:
        """The flow of information of every pair."""
        work = self._work
        flow = Flow(work.model, work.components, self._heads, work.limits, self._chunk_budget_bytes)
        for index, (clean, corrupted) in enumerate(zip(work.prompts, work.corrupted, strict=True)):
            metric = ablation.metric_of([self._asked[index]], work.position)
            async with aclosing(flow.found(index, (clean.ids, corrupted.ids), metric)) as steps:
                async for step in steps:
                    if isinstance(step, tuple):
                        yield self._progress(*step)
                    else:
                        yield self._found(pb.ResidualPartial(flow=step))

    def _found(self, finding: pb.ResidualPartial) -> pb.AnalyzeResidualStreamResponse:
        self._findings.append(finding)
        return pb.AnalyzeResidualStreamResponse(partial=finding)

    def _progress(self, stage: str, done: int, count: int) -> pb.AnalyzeResidualStreamResponse:
        return pb.AnalyzeResidualStreamResponse(
            progress=progress_pb2.AnalysisProgress(
                stage=stage, done=done, count=count, elapsed_seconds=self._elapsed_s()
            )
        )

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s
