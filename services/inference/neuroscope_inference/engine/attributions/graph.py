"""Which component of a model reads what which other one writes: senders, receivers and the edges between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.nodes import INPUT
from neuroscope_inference.engine.attributions.reading import HeadMatrix, Projection, Reading
from neuroscope_inference.engine.head_matrices import MatricesUnavailableError, output_matrix, projections_of
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.layout import Block, Layout


class GraphUnavailableError(Exception):
    """The model has no edges that gradients could score; the reason."""


@dataclass(frozen=True, slots=True)
class Writing:
    """One or more senders that write at the same place.

    Args:
        point: what they write, or what is projected to that.
        matrix: makes what each head's output is multiplied with; None: the point is written as it is.
    """

    point: PointIndex
    matrix: HeadMatrix | None = None

    def written(self, difference: mx.array) -> mx.array:
        """What a difference at the point adds to the stream (rows, senders, positions, d_model)."""
        if self.matrix is None:
            return difference[:, None]
        return difference.swapaxes(1, 2) @ self.matrix()


@dataclass(slots=True)
class Graph:
    """The edges of one model.

    Args:
        layout: of the model.

    Attributes:
        senders, receivers: in the order of the axes.
        writings: the senders in their order, some at a time.
        readings: the receivers in their order.
        layers: of each layer, where its receivers are in `readings` and its heads in `writings`.

    Raises (from the constructor):
        GraphUnavailableError: a part is missing.
    """

    layout: Layout
    senders: list[pb.EdgeSender] = field(default_factory=list[pb.EdgeSender], init=False)
    receivers: list[pb.EdgeReceiver] = field(default_factory=list[pb.EdgeReceiver], init=False)
    writings: list[Writing] = field(default_factory=list[Writing], init=False)
    readings: list[Reading] = field(default_factory=list[Reading], init=False)

    def __post_init__(self) -> None:
        self._writes(INPUT, 1)
        for layer, block in enumerate(self.layout.blocks):
            before = len(self.senders)
            self._attention(layer, block)
            if block.mlp is not None:
                self._mlp(layer, block, before)
        last = Point("resid_post", self.layout.num_layers - 1)
        end = self._index(last)
        self.readings.append(Reading(end, None, [Projection(end)], len(self.senders)))
        self._receives(Point("logits"), None)

    @property
    def compared(self) -> list[PointIndex]:
        """Points of which differences are wanted."""
        return [writing.point for writing in self.writings]

    @property
    def probed(self) -> list[PointIndex]:
        """Points of which gradients are wanted."""
        return [part.point for reading in self.readings for part in reading.projections]

    @property
    def streams(self) -> list[PointIndex]:
        """Points at which receivers read."""
        return list(dict.fromkeys(reading.stream for reading in self.readings))

    def heads_of(self, point: PointIndex) -> int:
        """Heads of a point that has some."""
        return self.layout.states[point].axes_extents[-2]

    def written(self, differences: Mapping[PointIndex, mx.array], positions: slice) -> mx.array:
        """What the senders' differences are in the stream (rows, senders, positions, d_model), float32, lazy."""
        parts = [writing.written(differences[writing.point][:, positions]) for writing in self.writings]
        return mx.concatenate([part.astype(mx.float32) for part in parts], axis=1)

    def _attention(self, layer: int, block: Block) -> None:
        width = self.layout.states[self._index(INPUT)].axes_extents[-1]
        names = ("q_proj", "k_proj", "value")
        parts: list[Projection] = []
        before = len(self.senders)
        try:
            projections = projections_of(block, self.layout.columns[layer], layer)
        except MatricesUnavailableError as missing:
            raise GraphUnavailableError(str(missing)) from None
        for name, projection in zip(names, projections, strict=True):
            point = Point(name, layer)
            heads, d_head = self._extents(point)
            if projection.matrix().shape != (heads, d_head, width):
                raise GraphUnavailableError(f"{point} is not what its projection gives")
            parts.append(Projection(self._index(point), projection.matrix))
            for head in range(heads):
                self._receives(point, head, before)
        self.readings.append(Reading(self._index(Point("resid_pre", layer)), block.norm1, parts, before))
        output = Point("head_output", layer)
        heads, _ = self._extents(output)
        if block.output_projection is None:
            raise GraphUnavailableError(f"layer {layer} has no output projection that is known")
        self._writes(output, heads, partial(_output_matrix, block, heads))

    def _mlp(self, layer: int, block: Block, before_attention: int) -> None:
        between = Point("resid_mid", layer)
        is_parallel = bool(self.layout.state(between).reason)
        stream = Point("resid_pre", layer) if is_parallel else between
        norm = block.norm2 or (block.norm1 if is_parallel else None)
        point = Point("mlp_out", layer, is_input=True)
        count = before_attention if is_parallel else len(self.senders)
        self.readings.append(Reading(self._index(stream), norm, [Projection(self._index(point))], count))
        self._receives(point, None, count)
        self._writes(Point("mlp_contrib", layer), 1)

    def _receives(self, point: Point, head: int | None, count: int | None = None) -> None:
        count = len(self.senders) if count is None else count
        self.receivers.append(pb.EdgeReceiver(site=point.to_message(), head=head, sender_count=count))

    def _writes(self, point: Point, count: int, matrix: HeadMatrix | None = None) -> None:
        self.writings.append(Writing(self._index(point), matrix))
        for head in range(count):
            self.senders.append(pb.EdgeSender(site=point.to_message(), head=None if matrix is None else head))

    def _index(self, point: Point) -> PointIndex:
        state = self.layout.state(point)
        if state.reason:
            raise GraphUnavailableError(f"{point} is missing: {state.reason}")
        return self.layout.index[point]

    def _extents(self, point: Point) -> tuple[int, int]:
        *_, heads, width = self.layout.states[self._index(point)].axes_extents
        return heads, width


def _output_matrix(block: Block, heads: int) -> mx.array:
    matrix = output_matrix(block, heads)
    return matrix if block.contribution_scale == 1 else matrix * block.contribution_scale
