"""How much of a write survives in the residual stream, and which components rewrite it.

The output of one component is patched with that of the corrupted run; d is the change of its write. The effect of
another component on this write is the change of its own output along d: the sum over positions of (change . d) / |d|^2;
-1 erases the write. The residual stream is the sum of all writes, so the surviving share at any point is 1 plus the
effects of all components before it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from neuroscope.interventions import Intervention, edit
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, ChunkAssembler, Floats
from neuroscope_analysis.residual.components import ATTN_CONTRIB, MLP_CONTRIB, RESID_PRE
from neuroscope_analysis.residual.graph_nodes import Writer
from neuroscope_analysis.residual.head_weights import HEAD_OUTPUT, HeadWeights

_CLEAN, _CORRUPTED, _FIRST_EDITED = 0, 1, 2


@dataclass(slots=True)
class WriteTrace:
    """The trace of one write.

    Args:
        writer: the writer.
        squared_norm: squared norm of the change of its write.
        dots: dot products of other components' changes with it.
    """

    writer: Writer
    squared_norm: float = 0.0
    dots: dict[tuple[int, str], float] = field(default_factory=dict[tuple[int, str], float])
    """By order and name."""

    @property
    def norm(self) -> float:
        """The norm of the change of its write, over all positions."""
        return float(np.sqrt(self.squared_norm))

    def share(self, order: int, name: str) -> float:
        """The effect of a component on the write, as a share."""
        return self.dots.get((order, name), 0.0) / self.squared_norm if self.squared_norm else 0.0

    def survival(self, order: int) -> float:
        """The share that survives until a component of this order reads; 0 before the write."""
        if order <= self.writer.order or not self.squared_norm:
            return 0.0
        layers = {key: dot for key, dot in self.dots.items() if ".h" not in key[1]}
        return 1.0 + sum(dot for (at, _), dot in layers.items() if self.writer.order < at < order) / self.squared_norm

    def rewriters(self, tolerance: float) -> list[tuple[str, float]]:
        """Components with an effect above the tolerance, strongest first; heads instead of their attention."""
        heads = {order for order, name in self.dots if ".h" in name}
        found = [
            (name, self.share(order, name))
            for order, name in self.dots
            if order > self.writer.order and (order not in heads or ".h" in name)
        ]
        return sorted((each for each in found if abs(each[1]) > tolerance), key=lambda each: -abs(each[1]))


async def trace_writes(
    model: RemoteModel,
    pair: tuple[Sequence[int], Sequence[int]],
    writers: Sequence[Writer],
    heads: Mapping[int, HeadWeights],
    components: Sequence[tuple[str, int]],
    *,
    rows: int,
    positions: int,
) -> list[WriteTrace]:
    """Traces writes.

    Args:
        model: the model.
        pair: clean and corrupted prompt, with as many tokens.
        writers: the writers.
        heads: heads by layer.
        components: attention and MLPs of all layers.
        rows: number of writers in a batch.
        positions: number of positions in a window.
    """
    found: list[WriteTrace] = []
    places = [
        (RESID_PRE, 0),
        *components,
        *((HEAD_OUTPUT, layer) for layer in heads),
        *(("attn_out", layer) for layer, each in heads.items() if each.post_norm.norm is not None),
    ]
    length = len(pair[0])
    for first in range(0, len(writers), rows):
        some = [WriteTrace(writer) for writer in writers[first : first + rows]]
        for start in range(0, length, positions):
            window = range(start, min(start + positions, length))
            chosen = None if len(window) == length else list(window)
            sums = _TraceAccumulator(some, heads, components, window)
            reader = ChunkAssembler(sums.consume)
            await model.capture(
                [list(pair[0]), list(pair[1]), *(list(pair[0]) for _ in some)],
                [Hook(component, layer, positions=chosen, dtype="float32") for component, layer in places],
                partial(_new_consumer, sums, reader),
                what="following what components write",
                interventions=[_patch_writer(each.writer, _FIRST_EDITED + row) for row, each in enumerate(some)],
            )
            await reader.finish()
            sums.commit()
        found += some
    return found


def _new_consumer(sums: _TraceAccumulator, reader: ChunkAssembler) -> Callable[[TensorPiece], Awaitable[None]]:
    sums.reset()
    return reader.reset().add


def _patch_writer(writer: Writer, row: int) -> Intervention:
    """Patches the writer's output in a row with that of the corrupted run."""
    if writer.order < 0:
        return edit(RESID_PRE, 0, lambda act: act.row(_CORRUPTED), rows=[row])
    if writer.head is None:
        return edit("mlp_out", writer.layer, lambda act: act.row(_CORRUPTED), rows=[row])
    return edit(HEAD_OUTPUT, writer.layer, lambda act: act.row(_CORRUPTED), heads=[writer.head], rows=[row])


class _Activations(Protocol):
    """Activations at some positions of one run."""

    def array(self, component: str, layer: int) -> Floats:
        """The activation (position, ...)."""
        ...


@dataclass(frozen=True, slots=True)
class _ActivationSlice:
    """Activations at some positions.

    Args:
        arrays: by component and layer (position, ...).
        positions: the positions.
    """

    arrays: Mapping[tuple[str, int], Floats]
    positions: slice

    def array(self, component: str, layer: int) -> Floats:
        """The activation (position, ...)."""
        return self.arrays[component, layer][self.positions]


class _TraceAccumulator:
    """Accumulates dot products of changes over chunks.

    Rows come one after another: first the clean one, which is kept, then the patched ones chunk by chunk.

    Args:
        followed: the trace of each patched row.
        heads: heads by layer.
        components: attention and MLPs of all layers.
        window: captured positions.
    """

    def __init__(
        self,
        followed: Sequence[WriteTrace],
        heads: Mapping[int, HeadWeights],
        components: Sequence[tuple[str, int]],
        window: range,
    ) -> None:
        self._traces = followed
        self._heads = heads
        self._components = components
        self._window = window
        self.reset()

    def reset(self) -> None:
        """Drops all sums, at the start of a capture."""
        self._found = [WriteTrace(each.writer) for each in self._traces]
        self._parts: defaultdict[tuple[str, int], list[Floats]] = defaultdict(list)
        self._clean: dict[tuple[str, int], Floats] = {}

    def commit(self) -> None:
        """Adds the sums to the traces."""
        for each, found in zip(self._traces, self._found, strict=True):
            each.squared_norm += found.squared_norm
            for key, dot in found.dots.items():
                each.dots[key] = each.dots.get(key, 0.0) + dot

    async def consume(self, chunk: ActivationChunk) -> None:
        """Adds a chunk of a row."""
        if chunk.row == _CLEAN:
            for component, layer, _ in chunk.pieces:
                self._parts[component, layer].append(chunk.array(component, layer))
        elif chunk.row >= _FIRST_EDITED:
            if not self._clean:
                self._clean = {place: np.concatenate(parts) for place, parts in self._parts.items()}
                self._parts.clear()
            first = int(chunk.positions(RESID_PRE, 0)[0]) - self._window.start
            clean = _ActivationSlice(self._clean, slice(first, first + len(chunk.array(RESID_PRE, 0))))
            await asyncio.to_thread(self._add, self._found[chunk.row - _FIRST_EDITED], clean, chunk)

    def _add(self, each: WriteTrace, clean: _Activations, edited: _Activations) -> None:
        writer = each.writer
        change = self._written(writer, edited) - self._written(writer, clean)
        each.squared_norm += float(np.square(change, dtype=np.float64).sum())
        for component, layer in self._components:
            order = 2 * layer + int(component == MLP_CONTRIB)
            if order <= writer.order:
                continue
            difference = edited.array(component, layer) - clean.array(component, layer)
            name = f"{'m' if component == MLP_CONTRIB else 'a'}{layer}"
            self._count(each, (order, name), float(np.einsum("pd,pd->", difference, change)))
            if component == ATTN_CONTRIB and layer in self._heads:
                heads = self._heads[layer]
                along = heads.dot(change)  # (P, head, d_head)
                ahead, before = self._outputs(layer, edited), self._outputs(layer, clean)
                for head, dot in enumerate(np.einsum("phi,phi->h", ahead - before, along).tolist()):
                    self._count(each, (order, f"{name}.h{head}"), dot)

    def _written(self, writer: Writer, chunk: _Activations) -> Floats:
        """The write (P, d_model)."""
        if writer.order < 0:
            return chunk.array(RESID_PRE, 0)
        if writer.head is None:
            return chunk.array(MLP_CONTRIB, writer.layer)
        heads = self._heads[writer.layer]
        return self._outputs(writer.layer, chunk)[:, writer.head] @ heads.output[writer.head]

    def _outputs(self, layer: int, chunk: _Activations) -> Floats:
        """Outputs of heads (P, head, d_head), divided by the divisor of a norm after attention."""
        behind = self._heads[layer].post_norm
        z = chunk.array(HEAD_OUTPUT, layer)
        if behind.norm is None:
            return z
        return (z / behind.divisor(chunk.array("attn_out", layer))[:, None, None]).astype(np.float32)

    @staticmethod
    def _count(each: WriteTrace, key: tuple[int, str], dot: float) -> None:
        each.dots[key] = each.dots.get(key, 0.0) + dot
