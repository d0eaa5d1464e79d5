"""Which component of a model reads what which other one writes: senders, receivers and the edges between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.nodes import INPUT
from neuroscope_inference.engine.attributions.receiver_group import HeadMatrix, ReceiverGroup, ReceiverProjection
from neuroscope_inference.engine.head_matrices import MatricesUnavailableError, output_matrix, projections_of
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.layout import Block, Layout


class GraphUnavailableError(Exception):
    """The model has no edges that gradients could score; the reason."""


@dataclass(frozen=True, slots=True)
class SenderGroup:
    """One or more senders that write at the same place.

    Args:
        point: what they write, or what is projected to that.
        matrix: makes what each head's output is multiplied with; None: the point is written as it is.
    """

    point: PointIndex
    matrix: HeadMatrix | None = None

    def contribution(self, difference: mx.array) -> mx.array:
        """What a difference at the point adds to the stream (rows, senders, positions, d_model)."""
        if self.matrix is None:
            return difference[:, None]
        return difference.swapaxes(1, 2) @ self.matrix()


@dataclass(slots=True)
class EdgeGraph:
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
    sender_groups: list[SenderGroup] = field(default_factory=list[SenderGroup], init=False)
    receiver_groups: list[ReceiverGroup] = field(default_factory=list[ReceiverGroup], init=False)

    def __post_init__(self) -> None:
        self._add_senders(INPUT, 1)
        for layer, block in enumerate(self.layout.blocks):
            before = len(self.senders)
            self._add_attention(layer, block)
            if block.mlp is not None:
                self._add_mlp(layer, block, before)
        last = Point("resid_post", self.layout.num_layers - 1)
        end = self._index(last)
        self.receiver_groups.append(ReceiverGroup(end, None, [ReceiverProjection(end)], len(self.senders)))
        self._add_receiver(Point("logits"), None)

    @property
    def sender_points(self) -> list[PointIndex]:
        """Points of which differences are wanted."""
        return [writing.point for writing in self.sender_groups]

    @property
    def receiver_points(self) -> list[PointIndex]:
        """Points of which gradients are wanted."""
        return [part.point for reading in self.receiver_groups for part in reading.projections]

    @property
    def streams(self) -> list[PointIndex]:
        """Points at which receivers read."""
        return list(dict.fromkeys(reading.stream for reading in self.receiver_groups))

    def head_count(self, point: PointIndex) -> int:
        """Heads of a point that has some."""
        return self.layout.states[point].axes_extents[-2]

    def contributions(self, differences: Mapping[PointIndex, mx.array], positions: slice) -> mx.array:
        """What the senders' differences are in the stream (rows, senders, positions, d_model), float32, lazy."""
        parts = [writing.contribution(differences[writing.point][:, positions]) for writing in self.sender_groups]
        return mx.concatenate([part.astype(mx.float32) for part in parts], axis=1)

    def _add_attention(self, layer: int, block: Block) -> None:
        width = self.layout.states[self._index(INPUT)].axes_extents[-1]
        names = ("q_proj", "k_proj", "value")
        parts: list[ReceiverProjection] = []
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
            parts.append(ReceiverProjection(self._index(point), projection.matrix))
            for head in range(heads):
                self._add_receiver(point, head, before)
        self.receiver_groups.append(ReceiverGroup(self._index(Point("resid_pre", layer)), block.norm1, parts, before))
        output = Point("head_output", layer)
        heads, _ = self._extents(output)
        if block.output_projection is None:
            raise GraphUnavailableError(f"layer {layer} has no output projection that is known")
        self._add_senders(output, heads, partial(_output_matrix, block, heads))

    def _add_mlp(self, layer: int, block: Block, before_attention: int) -> None:
        between = Point("resid_mid", layer)
        is_parallel = bool(self.layout.state(between).reason)
        stream = Point("resid_pre", layer) if is_parallel else between
        norm = block.norm2 or (block.norm1 if is_parallel else None)
        point = Point("mlp_out", layer, is_input=True)
        count = before_attention if is_parallel else len(self.senders)
        self.receiver_groups.append(
            ReceiverGroup(self._index(stream), norm, [ReceiverProjection(self._index(point))], count)
        )
        self._add_receiver(point, None, count)
        self._add_senders(Point("mlp_contrib", layer), 1)

    def _add_receiver(self, point: Point, head: int | None, count: int | None = None) -> None:
        count = len(self.senders) if count is None else count
        self.receivers.append(pb.EdgeReceiver(site=point.to_message(), head=head, sender_count=count))

    def _add_senders(self, point: Point, count: int, matrix: HeadMatrix | None = None) -> None:
        self.sender_groups.append(SenderGroup(self._index(point), matrix))
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
