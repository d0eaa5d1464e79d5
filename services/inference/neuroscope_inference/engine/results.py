"""What a forward pass gives: selected tensors, lazy, and then evaluated beside the token that was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from neuroscope.v1 import inference_pb2
from neuroscope.wire.frames import OutgoingTensor, TensorPart
from neuroscope_inference.engine.arrays import buffer


@dataclass(slots=True)
class PendingTensor:
    """A selected tensor that is still lazy."""

    plan_index: int
    row: int
    first_position: int
    array: mx.array
    positions: tuple[int, ...]
    key_positions: tuple[int, ...]
    is_sent: bool = True
    """False for what is only computed along, such as the sum of a mean that goes on."""

    def outgoing(self) -> OutgoingTensor:
        """The tensor to send, once `array` is evaluated."""
        return OutgoingTensor(
            self.plan_index,
            self.row,
            self.array.shape,
            self.first_position,
            buffer(self.array),
            self.positions,
            self.key_positions,
        )


@dataclass(slots=True)
class StepResult:
    """What one forward pass produced: evaluated tensors, and at the end of a step its token."""

    step: int
    tensors: list[OutgoingTensor]
    nbytes: int
    token: inference_pb2.TokenEvent | None = None

    @classmethod
    def from_pending(
        cls, step: int, pending: list[PendingTensor], token: inference_pb2.TokenEvent | None = None
    ) -> StepResult:
        """A result of tensors that are evaluated."""
        tensors = [p.outgoing() for p in pending if p.is_sent]
        return cls(step, tensors, sum(tensor.data.nbytes for tensor in tensors), token)


@dataclass(slots=True)
class PortionResult:
    """A part of a large tensor that is made while it is sent."""

    step: int
    portion: TensorPart

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.portion.data.nbytes
