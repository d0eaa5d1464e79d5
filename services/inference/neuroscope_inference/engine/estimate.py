"""What a capture would cost, without running it.

Bytes and chunks come from the graph itself, which is built for every chunk and never evaluated: shapes are exact.
Memory comes from evaluating a short piece at the end of the heaviest chunk, over a cache of zeros as long as the real
one. What a forward pass needs grows with its positions, so the rest of the chunk is a matter of proportion.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from neuroscope.v1 import inference_pb2, site_pb2
from neuroscope_inference.engine.caches import Cache
from neuroscope_inference.engine.capture_plan import CapturePlan, PlannedTensor
from neuroscope_inference.engine.forward import ForwardRunner, max_chunk_positions
from neuroscope_inference.engine.position_range import PositionRange, selected_positions
from neuroscope_inference.engine.run import Run
from neuroscope_inference.engine.steering import Steering

PROBE_POSITIONS = 128
"""Positions that are evaluated to measure memory; a chunk that has no more is measured as it is."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk of the capture, its graph built and dropped."""

    prompt: Sequence[int]
    position_range: PositionRange
    captured_bytes: int
    kept_bytes: int  # of the cache, at its end
    before_bytes: int  # of the cache, at its beginning
    largest_bytes: int  # of one tensor

    def weight(self, heads: int) -> int:
        """Grows with the memory that it takes, roughly."""
        return (
            self.captured_bytes
            + self.kept_bytes
            + 4 * heads * self.position_range.length * (self.position_range.first + self.position_range.length)
        )


def estimate(run: Run) -> Iterator[inference_pb2.EstimateCaptureResponse]:
    """The cost of a run's capture, chunk by chunk; complete in the last item. For the engine's thread.

    Edits are left out: they cost next to nothing, and some need activations that nobody computes here.
    """
    forward = replace(run.forward, steering=Steering.without_edits(run.forward.model))
    heads = max(forward.model.description.num_heads, 1)
    found = inference_pb2.EstimateCaptureResponse()
    heaviest: _Chunk | None = None
    for row, prompt in enumerate(run.prompts):
        cache = forward.new_cache()
        for position_range in forward.chunks(row, len(prompt), needs_logits=False):
            before = _nbytes(cache)
            sizes = _build(forward, prompt, position_range, cache)
            captured = sum(sizes)
            chunk = _Chunk(prompt, position_range, captured, _nbytes(cache), before, max(sizes, default=0))
            found.tensor_bytes += captured
            found.chunk_count += 1
            if heaviest is None or chunk.weight(heads) > heaviest.weight(heads):
                heaviest = chunk
            yield found
    assert heaviest is not None
    found.peak_memory_bytes = _peak_bytes(forward, heaviest)
    yield found


def _build(forward: ForwardRunner, prompt: Sequence[int], position_range: PositionRange, cache: Cache) -> list[int]:
    """Builds the graph of a chunk; the bytes of the tensors that it would send."""
    pending, _, _ = forward.build(prompt, position_range, cache)
    return [p.array.nbytes for p in pending if p.is_sent]


def _peak_bytes(forward: ForwardRunner, chunk: _Chunk) -> int:
    """Memory that the engine needs at most while it computes a chunk."""
    position_range = chunk.position_range
    length = min(position_range.length, PROBE_POSITIONS)
    probe = replace(position_range, first=position_range.first + position_range.length - length, length=length)
    forward = replace(forward, plan=_probe_plan(forward.plan, position_range, probe))
    cache = _cache_of_zeros(forward, chunk.prompt, probe.first)
    cached, before = _nbytes(cache), mx.get_active_memory()
    mx.reset_peak_memory()
    pending, _, _ = forward.build(chunk.prompt, probe, cache)
    mx.eval([p.array for p in pending], [layer.state for layer in cache])
    used = mx.get_peak_memory() - before
    captured = sum(p.array.nbytes for p in pending if p.is_sent)
    working = (used - captured - (_nbytes(cache) - cached)) * position_range.length / length
    # The caches from before are kept, should the chunk have to be halved.
    # Of the chunk before, one tensor may be with the reader and another in its frames.
    leaving = 2 * chunk.largest_bytes if position_range.first else 0
    return max(0, int(chunk.kept_bytes + chunk.before_bytes + chunk.captured_bytes + leaving + working))


def _probe_plan(plan: CapturePlan, position_range: PositionRange, probe: PositionRange) -> CapturePlan:
    """The plan with what it reads in a chunk read in the probe too: of single positions the probe's last one."""
    last = site_pb2.PositionSelector(list=site_pb2.PositionList(positions=[probe.first + probe.length - 1]))

    def moved(read: PlannedTensor) -> Iterator[PlannedTensor]:
        if read.positions is None:
            yield read
        elif selected_positions(read.positions, position_range):
            yield replace(read, positions=last)

    probing = copy.copy(plan)
    probing.tensors = [found for read in plan.tensors for found in moved(read)]
    return probing


def _cache_of_zeros(forward: ForwardRunner, prompt: Sequence[int], length: int) -> Cache:
    """A cache as it is after that many positions, of which nothing was computed."""
    unread = copy.copy(forward.plan)
    unread.tensors = []
    forward = replace(forward, plan=unread)
    cache = forward.new_cache()
    step = max_chunk_positions()
    for first in range(0, length, step):
        position_range = PositionRange(0, 0, first, min(step, length - first), len(prompt))
        _build(forward, prompt, position_range, cache)
    for layer in cache:
        _fill_with_zeros(layer)
    mx.eval([layer.state for layer in cache])
    return cache


def _fill_with_zeros(value: Any) -> Any:
    """The same structure with evaluated zeros in place of its arrays; objects are changed in place."""
    if isinstance(value, mx.array):
        return mx.zeros(value.shape, value.dtype)
    if isinstance(value, list | tuple):
        return type(value)(map(_fill_with_zeros, value))  # type: ignore[arg-type]
    if hasattr(value, "__dict__"):
        for name, held in vars(value).items():
            setattr(value, name, _fill_with_zeros(held))
    return value


def _nbytes(value: Any) -> int:
    """Bytes of all arrays in a structure."""
    if isinstance(value, mx.array):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return sum(map(_nbytes, vars(value).values())) if hasattr(value, "__dict__") else 0
