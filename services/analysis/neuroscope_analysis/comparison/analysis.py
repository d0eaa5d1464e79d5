"""The run of a comparison of attention patterns.

Rows of the first prompt are kept until those of the second arrive: a few layers at a time, or a few queries of long
prompts, as many as fit in a few chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.attention.pattern_capture import ATTENTION_PATTERN, AccumulatorT, accumulate_patterns
from neuroscope_analysis.attention.patterns import Positions
from neuroscope_analysis.attention.statistics import STATISTICS, PromptStatistics
from neuroscope_analysis.comparison.divergence import DIVERGENCES, AlignedRows, Divergences
from neuroscope_analysis.comparison.request import ComparisonJob
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.result_arrays import ResultArrays
from neuroscope_analysis.tokenized_pairs import token_ids_message

_HELD_CHUNKS = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows in memory at a time: layers with all queries, or some queries of one layer."""

    layers: Sequence[int]
    queries: slice
    """A slice of the aligned queries."""


class AttentionComparison:
    """Runs one comparison.

    Args:
        job: the validated request.
    """

    def __init__(self, job: ComparisonJob) -> None:
        self._job = job
        shape = (len(job.layers), job.head_count)
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD)
        self._arrays = ResultArrays.of_shape((*DIVERGENCES, *STATISTICS), ATTENTION_PATTERN, axes, shape)
        self._divergences = Divergences(*shape, len(job.alignment.first))
        self._timer = ProgressTimer()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, the arrays and the result."""
        job = self._job
        yield pb.CompareAttentionResponse(plan=self._plan())
        async with aclosing(self._arrays.stream(self._read(), self._divergences.arrays)) as read:
            async for event in read:
                yield event
        for row, tokens in enumerate(job.prompts):
            yield pb.CompareAttentionResponse(progress=self._timer.progress("describing prompts", row, 2))
            statistics = await self._accumulate(
                tokens.ids, job.layers, lambda ids=tokens.ids: PromptStatistics(ids, len(job.layers), job.head_count)
            )
            for frame in self._arrays.frames({name: statistics.array(name) for name in STATISTICS}, row):
                yield frame
        yield pb.CompareAttentionResponse(
            result=pb.AttentionComparisonResult(
                token_count=job.model.token_count,
                call_count=job.model.call_count,
                elapsed_seconds=self._timer.elapsed_s(),
            )
        )

    def _plan(self) -> pb.AttentionComparisonPlan:
        job = self._job
        return pb.AttentionComparisonPlan(
            model_id=job.model.model_id,
            layers=job.layers,
            head_count=job.head_count,
            arrays=self._arrays.plan,
            prompts=[token_ids_message(tokens.ids) for tokens in job.prompts],
            alignment=job.alignment.kind,
            first_positions=job.alignment.first.tolist(),
            second_positions=job.alignment.second.tolist(),
            warnings=list(dict.fromkeys(warning for tokens in job.prompts for warning in tokens.warnings)),
        )

    def _batches(self) -> Iterator[_Batch]:
        job = self._job
        count = len(job.alignment.first)
        of_query = job.head_count * (count + 1) * _FLOAT_BYTES
        room = _HELD_CHUNKS * job.model.chunk_budget_bytes
        together = room // (of_query * count)
        if together:
            for start in range(0, len(job.layers), together):
                yield _Batch(job.layers[start : start + together], slice(0, count))
            return
        queries = max(1, room // of_query)
        for layer in job.layers:
            for start in range(0, count, queries):
                yield _Batch([layer], slice(start, start + queries))

    async def _read(self) -> AsyncGenerator[Event, None]:
        """Computes divergences batch by batch."""
        parts = list(self._batches())
        for index, part in enumerate(parts):
            yield pb.CompareAttentionResponse(progress=self._timer.progress("reading prompts", index, len(parts)))
            await self._compare(part)

    async def _compare(self, part: _Batch) -> None:
        """Captures a batch of both prompts and adds its divergences."""
        job, alignment = self._job, self._job.alignment
        both: list[AlignedRows] = []
        for tokens, places in zip(job.prompts, (alignment.first, alignment.second), strict=True):
            queries = places[part.queries]

            def make(queries: Positions = queries, keys: Positions = places) -> AlignedRows:
                return AlignedRows(queries, keys, len(part.layers), job.head_count)

            chosen = None if len(queries) == len(tokens) else queries.tolist()
            both.append(await self._accumulate(tokens.ids, part.layers, make, chosen))
        first, second = both
        for index, layer in enumerate(part.layers):
            place = job.layers.index(layer)
            await asyncio.to_thread(self._divergences.add, place, first.layer_rows(index), second.layer_rows(index))

    async def _accumulate(
        self,
        ids: Sequence[int],
        layers: Sequence[int],
        make: Callable[[], AccumulatorT],
        queries: Sequence[int] | None = None,
    ) -> AccumulatorT:
        return await accumulate_patterns(
            self._job.model,
            ids,
            layers,
            make,
            what="comparing patterns",
            queries=queries,
        )
