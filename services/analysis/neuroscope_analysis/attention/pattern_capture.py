"""Attention patterns of one prompt, chunk by chunk, as something takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece
from neuroscope_analysis.attention.patterns import PatternChunk
from neuroscope_analysis.remote_model import RemoteModel

ATTENTION_PATTERN = "attention_pattern"


class PatternAccumulator(Protocol):
    """What takes chunks of a layer, by its index among the layers."""

    def add(self, layer: int, chunk: PatternChunk) -> None:
        """Takes one."""
        ...


AccumulatorT = TypeVar("AccumulatorT", bound=PatternAccumulator)


async def accumulate_patterns(
    model: RemoteModel,
    ids: Sequence[int],
    layers: Sequence[int],
    new_accumulator: Callable[[], AccumulatorT],
    *,
    what: str,
    queries: Sequence[int] | None = None,
) -> AccumulatorT:
    """What a prompt's patterns add up to.

    Args:
        model: what runs.
        ids: the prompt.
        layers: whose patterns.
        make: makes what takes them, anew where bytes were changed on the way.
        what: for errors.
        queries: positions of the queries that are wanted; None: all.
    """
    places = {layer: index for index, layer in enumerate(layers)}
    sums = new_accumulator()

    def fresh() -> Callable[[TensorPiece], Awaitable[None]]:
        nonlocal sums
        sums = new_accumulator()
        return take

    async def take(piece: TensorPiece) -> None:
        await asyncio.to_thread(sums.add, places[piece.spec.site.layer], PatternChunk.of(piece))

    hooks = [Hook(ATTENTION_PATTERN, layer, positions=queries, dtype="float32") for layer in layers]
    await model.capture(ids, hooks, fresh, what=what)
    return sums
