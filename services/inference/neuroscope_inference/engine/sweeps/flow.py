"""Rows of a batch that enter it at the layer that they edit, with the residual stream of the unedited run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

BEFORE_EMBEDDING = -1
"""The boundary of rows that run from their tokens on."""


class Entering:
    """A triangular batch. Boundary b lies before block b, the last one behind the last block.

    Args:
        streams: by boundary, the residual stream of the unedited run (1, positions, d_model), cut to the batch's
            positions.
        boundaries: of the rows, ascending.
    """

    def __init__(self, streams: Mapping[int, mx.array], boundaries: Sequence[int]) -> None:
        self._streams = streams
        self._counts: dict[int, int] = {}
        for boundary in boundaries:
            self._counts[boundary] = self._counts.get(boundary, 0) + 1
        self._rows = self._counts.get(BEFORE_EMBEDDING, 0)

    @property
    def has_rows(self) -> bool:
        """Whether any row has entered."""
        return self._rows > 0

    @property
    def token_rows(self) -> int:
        """Rows of tokens that the model is called with: one that is dropped, where no row needs them."""
        return max(self._counts.get(BEFORE_EMBEDDING, 0), 1)

    def enter(self, layer: int, stream: mx.array) -> mx.array:
        """The residual stream that a block reads (rows, positions, d_model)."""
        return self._joined(0, stream) if layer == 0 else stream

    def leave(self, layer: int, stream: mx.array) -> mx.array:
        """What goes on after a block, with the rows that enter behind it."""
        return self._joined(layer + 1, stream)

    def _joined(self, boundary: int, stream: mx.array) -> mx.array:
        count = self._counts.get(boundary, 0)
        if not count:
            return stream
        own = self._streams[boundary]
        new = mx.broadcast_to(own, (count, *own.shape[1:]))
        joined = mx.concatenate([stream, new]) if self._rows else new
        self._rows += count
        return joined
