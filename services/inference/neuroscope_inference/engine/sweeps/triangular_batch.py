"""Rows of a batch that enter it at the layer that they edit, with the residual stream of the unedited run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from neuroscope_inference.engine.hook_plan import get_argument

BEFORE_EMBEDDING = -1
"""The boundary of rows that run from their tokens on."""


class TriangularBatch:
    """A triangular batch. Boundary b lies before block b, the last one behind the last block.

    Args:
        streams: by boundary, the residual stream of the unedited run (1, positions, d_model), cut to the batch's
            positions.
        boundaries: of the rows, ascending.
        tail: the last block's index, and how many positions of it are wanted: the last ones. None: all are.
    """

    def __init__(
        self, streams: Mapping[int, mx.array], boundaries: Sequence[int], tail: tuple[int, int] | None = None
    ) -> None:
        self._streams = streams
        self._tail = tail
        self._counts: dict[int, int] = {}
        for boundary in boundaries:
            self._counts[boundary] = self._counts.get(boundary, 0) + 1
        self._rows = self._counts.get(BEFORE_EMBEDDING, 0)

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

    def run(self, layer: int, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a block returns for the rows that have entered; with none, what it was to read.

        Of the last block all positions give keys and values, but what it writes is wanted for the last ones alone. It
        is called for those before first; nobody evaluates what that call returns, so it costs keys and values only.
        """
        stream = get_argument(args, kwargs, 0)
        if not self._rows:
            return stream
        if self._tail is None or self._tail[0] != layer or self._tail[1] >= stream.shape[1]:
            return call(*args, **kwargs)
        split = stream.shape[1] - self._tail[1]
        call(*_part(args, slice(None, split), stream), **_part_of(kwargs, slice(None, split), stream))
        return call(*_part(args, slice(split, None), stream), **_part_of(kwargs, slice(split, None), stream))

    def _joined(self, boundary: int, stream: mx.array) -> mx.array:
        count = self._counts.get(boundary, 0)
        if not count:
            return stream
        own = self._streams[boundary]
        new = mx.broadcast_to(own, (count, *own.shape[1:]))
        joined = mx.concatenate([stream, new]) if self._rows else new
        self._rows += count
        return joined


def _part(args: Sequence[Any], positions: slice, stream: mx.array) -> list[Any]:
    """Arguments of a block for some of the positions: the stream, and a mask (..., positions, keys)."""
    return [_at(argument, positions, stream) for argument in args]


def _part_of(kwargs: Mapping[str, Any], positions: slice, stream: mx.array) -> dict[str, Any]:
    return {name: _at(argument, positions, stream) for name, argument in kwargs.items()}


def _at(argument: Any, positions: slice, stream: mx.array) -> Any:
    if argument is stream:
        return stream[:, positions]
    length = stream.shape[1]
    if isinstance(argument, mx.array) and argument.ndim >= 2 and argument.shape[-2] == length:
        last = argument.shape[-1] - length + (positions.stop or length)
        return argument[..., positions, :last]
    return argument
