"""What every reduction is: the entries of the plan that it makes, and their arrays from the selected part of a tensor.

Sums run in float32, whatever the model computes in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope_inference.engine.hook_plan import PointIndex


@dataclass(frozen=True, slots=True)
class Shape:
    """Axes of a tensor and their extents; -1 where it differs from step to step."""

    axes: tuple[tensor_pb2.Axis.ValueType, ...]
    extents: tuple[int, ...]

    def without(self, axis: int) -> Shape:
        """All axes but one."""
        index = axis % len(self.axes)
        return Shape(self.axes[:index] + self.axes[index + 1 :], self.extents[:index] + self.extents[index + 1 :])

    @property
    def width(self) -> int:
        """Elements of one position."""
        return math.prod(self.extents[2:])

    def and_then(self, axis: tensor_pb2.Axis.ValueType, extent: int) -> Shape:
        """One more axis at the end."""
        return Shape((*self.axes, axis), (*self.extents, extent))

    def ending_with(self, axis: tensor_pb2.Axis.ValueType, extent: int) -> Shape:
        """Another last axis."""
        return Shape((*self.axes[:-1], axis), (*self.extents[:-1], extent))


@dataclass(frozen=True, slots=True)
class Output:
    """An entry of the plan that a reduction makes."""

    reduced: tensor_pb2.Reduced.ValueType
    shape: Shape
    dtype: mx.Dtype


@dataclass(frozen=True, slots=True)
class TensorPart:
    """The selected part of a site's tensor in one forward pass."""

    array: mx.array
    first_position: int
    positions: tuple[int, ...]  # empty: contiguous
    key_positions: tuple[int, ...]  # empty: column j is position j
    logits: mx.array | None = None  # the model's own at these positions, where the reduction needs them
    second_input: mx.array | None = None  # of another point at these positions, where the reduction reads one


@dataclass(frozen=True, slots=True)
class ReducedPiece:
    """What becomes of a part: an array to send, or one that only has to be evaluated with the step."""

    array: mx.array
    first_position: int
    positions: tuple[int, ...] = ()
    is_sent: bool = True


class Reduction(ABC):
    """A reduction of one hook at one point.

    Args:
        shape: of the tensor before the reduction.
        dtype: its element type.
        wanted: type to cast the result to; None: the reduction's own.
    """

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.wanted = wanted
        self.dictionary_id = ""
        """The dictionary whose features it gives; empty: they are none."""

    @abstractmethod
    def outputs(self) -> list[Output]:
        """The entries of the plan."""

    @abstractmethod
    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """A piece for each entry of the plan, or none.

        Args:
            part: what was selected; None: nothing in this forward pass.
            row: prompt of the request.
            ends_step: whether no further chunk of the step comes.
        """

    @property
    def needs_logits(self) -> bool:
        """Whether a part must come with the model's own logits."""
        return False

    @property
    def second_point(self) -> PointIndex | None:
        """Another point that a part must come with."""
        return None

    def checkpoint(self, row: int) -> Callable[[], None]:
        """What brings a row back to where it is now; nothing where chunks do not depend on each other."""
        return lambda: None
