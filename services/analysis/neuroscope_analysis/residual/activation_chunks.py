"""Chunks of a capture: all activations at the same positions of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import tensor_pb2
from neuroscope.wire.frames import TensorPiece

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]
ActivationKey = tuple[str, int, tensor_pb2.Reduced.ValueType]
"""Component, layer (-1: none) and reduction."""
UNREDUCED = tensor_pb2.REDUCED_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ActivationChunk:
    """Activations of some positions of one row.

    Args:
        pieces: pieces by key; without the batch axis they are (position, ...), patterns (head, query, key).
        row: row of the capture.
    """

    pieces: Mapping[ActivationKey, TensorPiece]
    row: int = 0

    def __contains__(self, place: tuple[str, int]) -> bool:
        return (*place, UNREDUCED) in self.pieces

    def array(self, component: str, layer: int = -1, reduced: tensor_pb2.Reduced.ValueType = UNREDUCED) -> Floats:
        """The activation, without the batch axis."""
        return np.asarray(self.pieces[component, layer, reduced].array[0], np.float32)

    def positions(
        self, component: str, layer: int = -1, reduced: tensor_pb2.Reduced.ValueType = UNREDUCED
    ) -> Positions:
        """The positions of the activation in the prompt."""
        piece = self.pieces[component, layer, reduced]
        axis = list(piece.spec.axes).index(tensor_pb2.AXIS_POSITION)
        return np.asarray(
            piece.positions or range(piece.first_position, piece.first_position + piece.array.shape[axis]), np.int64
        )


@dataclass(slots=True)
class ChunkAssembler:
    """Assembles pieces to chunks.

    Args:
        consume: receives each complete chunk.
    """

    consume: Callable[[ActivationChunk], Awaitable[None]]
    _row: int = 0
    _pieces: dict[ActivationKey, TensorPiece] = field(default_factory=dict[ActivationKey, TensorPiece])

    async def add(self, piece: TensorPiece) -> None:
        """Adds a piece. Rows come one after another, and chunks of a row one after another."""
        site = piece.spec.site
        place = (site.component, site.layer if site.HasField("layer") else -1, piece.spec.reduced)
        if piece.row != self._row or place in self._pieces:
            await self.finish()
        self._row, self._pieces[place] = piece.row, piece

    async def finish(self) -> None:
        """Passes on the last chunk; call it after the last piece."""
        if self._pieces:
            chunk, self._pieces = ActivationChunk(self._pieces, self._row), {}
            await self.consume(chunk)

    def reset(self) -> ChunkAssembler:
        """Drops all pieces, at the start of a capture."""
        self._pieces.clear()
        return self

    @classmethod
    def in_thread(cls, add: Callable[[ActivationChunk], None]) -> ChunkAssembler:
        """An assembler whose chunks are processed in a thread."""

        async def use(chunk: ActivationChunk) -> None:
            await asyncio.to_thread(add, chunk)

        return cls(use)
