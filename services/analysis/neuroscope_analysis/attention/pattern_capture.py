"""Capture of attention patterns, chunk by chunk."""

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
    """Accumulates chunks of attention patterns."""

    def add(self, layer: int, chunk: PatternChunk) -> None:
        """Adds a chunk; `layer` is an index into the layers."""
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
    """Captures the patterns of a prompt and accumulates them.

    Args:
        model: the model.
        ids: the prompt.
        layers: the layers.
        make: makes an accumulator; again when the capture is repeated after a checksum error.
        what: for errors.
        queries: query positions; None: all.
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
