"""A comparison of attention patterns, from its request to its result, as the events of its stream.

Rows of the first prompt are held while those of the second come, a few layers or, of long prompts, a few queries at a
time: as many as fit a few chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.model_info import Tokens
from neuroscope.wire.codec import Event
from neuroscope_analysis.arrays import NamedArrays
from neuroscope_analysis.attention.patterns import Positions
from neuroscope_analysis.attention.reading import PATTERN, Taker, summed
from neuroscope_analysis.attention.statistics import STATISTICS, PromptStatistics
from neuroscope_analysis.comparison.alignment import Alignment, align
from neuroscope_analysis.comparison.divergence import DIVERGENCES, AlignedRows, Divergences
from neuroscope_analysis.layers import with_component
from neuroscope_analysis.pairs import as_message
from neuroscope_analysis.progress import Clock
from neuroscope_analysis.upstream import InspectedModel

_HELD_CHUNKS = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class ComparisonWork:
    """What is to be done."""

    model: InspectedModel
    prompts: tuple[Tokens, Tokens]
    layers: list[int]
    heads: int
    alignment: Alignment


async def checked(request: pb.CompareAttentionRequest, model: InspectedModel) -> ComparisonWork:
    """The work of a request.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: names the field.
    """
    layers = with_component(request.layers, model, PATTERN, "attention patterns")
    first = await model.tokens(request.first, "first")
    second = await model.tokens(request.second, "second")
    aligned = align(first.ids, second.ids, request.alignment)
    return ComparisonWork(model, (first, second), layers, model.info.model.num_heads, aligned)


@dataclass(frozen=True, slots=True)
class _Part:
    """What is held at a time: all layers with all queries, some layers, or some queries of a layer."""

    layers: Sequence[int]
    queries: slice
    """Of the aligned ones."""


class AttentionComparison:
    """Runs one comparison.

    Args:
        work: what is to be done.
        chunk_budget_bytes: patterns of one chunk of a prompt.
    """

    def __init__(self, work: ComparisonWork, chunk_budget_bytes: int) -> None:
        self._work = work
        self._chunk_budget_bytes = chunk_budget_bytes
        shape = (len(work.layers), work.heads)
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD)
        self._arrays = NamedArrays.alike((*DIVERGENCES, *STATISTICS), PATTERN, axes, shape)
        self._divergences = Divergences(*shape, len(work.alignment.first))
        self._clock = Clock()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then the arrays, then the result."""
        work = self._work
        yield pb.CompareAttentionResponse(plan=self._plan())
        async with aclosing(self._arrays.filled(self._read(), self._divergences.arrays)) as read:
            async for event in read:
                yield event
        for row, tokens in enumerate(work.prompts):
            yield pb.CompareAttentionResponse(progress=self._clock.progress("describing prompts", row, 2))
            statistics = await self._summed(
                tokens.ids, work.layers, lambda ids=tokens.ids: PromptStatistics(ids, len(work.layers), work.heads)
            )
            for frame in self._arrays.frames({name: statistics.array(name) for name in STATISTICS}, row):
                yield frame
        yield pb.CompareAttentionResponse(
            result=pb.AttentionComparisonResult(
                token_count=work.model.token_count,
                call_count=work.model.call_count,
                elapsed_seconds=self._clock.elapsed_s(),
            )
        )

    def _plan(self) -> pb.AttentionComparisonPlan:
        work = self._work
        return pb.AttentionComparisonPlan(
            model_id=work.model.model_id,
            layers=work.layers,
            head_count=work.heads,
            arrays=self._arrays.plan,
            prompts=[as_message(tokens.ids) for tokens in work.prompts],
            alignment=work.alignment.kind,
            first_positions=work.alignment.first.tolist(),
            second_positions=work.alignment.second.tolist(),
            warnings=list(dict.fromkeys(warning for tokens in work.prompts for warning in tokens.warnings)),
        )

    def _parts(self) -> Iterator[_Part]:
        work = self._work
        count = len(work.alignment.first)
        of_query = work.heads * (count + 1) * _FLOAT_BYTES
        room = _HELD_CHUNKS * self._chunk_budget_bytes
        together = room // (of_query * count)
        if together:
            for start in range(0, len(work.layers), together):
                yield _Part(work.layers[start : start + together], slice(0, count))
            return
        queries = max(1, room // of_query)
        for layer in work.layers:
            for start in range(0, count, queries):
                yield _Part([layer], slice(start, start + queries))

    async def _read(self) -> AsyncGenerator[Event, None]:
        """Divergences of every part."""
        parts = list(self._parts())
        for index, part in enumerate(parts):
            yield pb.CompareAttentionResponse(progress=self._clock.progress("reading prompts", index, len(parts)))
            await self._compare(part)

    async def _compare(self, part: _Part) -> None:
        """Reads the same part of both prompts and counts it in."""
        work, alignment = self._work, self._work.alignment
        both: list[AlignedRows] = []
        for tokens, places in zip(work.prompts, (alignment.first, alignment.second), strict=True):
            queries = places[part.queries]

            def make(queries: Positions = queries, keys: Positions = places) -> AlignedRows:
                return AlignedRows(queries, keys, len(part.layers), work.heads)

            chosen = None if len(queries) == len(tokens) else queries.tolist()
            both.append(await self._summed(tokens.ids, part.layers, make, chosen))
        first, second = both
        for index, layer in enumerate(part.layers):
            place = work.layers.index(layer)
            await asyncio.to_thread(self._divergences.add, place, first.of(index), second.of(index))

    async def _summed(
        self,
        ids: Sequence[int],
        layers: Sequence[int],
        make: Callable[[], Taker],
        queries: Sequence[int] | None = None,
    ) -> Taker:
        return await summed(
            self._work.model,
            ids,
            layers,
            make,
            chunk_budget_bytes=self._chunk_budget_bytes,
            what="comparing patterns",
            queries=queries,
        )
