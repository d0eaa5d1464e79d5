"""Scores of prompt positions: integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365).

The mean gradient on the straight line between two embeddings of the prompt, times their difference. The sum over the
line is taken at the midpoints of equal intervals, whose error falls with the square of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.gradients import PassResult
from neuroscope_inference.engine.attributions.nodes import check_has_gradient
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.model import LoadedModel

_EMBEDDING = Point("embedding")
_DEFAULT_STEPS = 32


@dataclass(frozen=True, slots=True)
class InputAttribution:
    """Scores of inputs that a request asks for.

    Args:
        model: what reads them.
        steps: points of the line.
    """

    model: LoadedModel
    steps: int

    @property
    def gradient_points(self) -> Sequence[PointIndex]:
        """The embedding."""
        return [self.interpolation_point]

    @property
    def activation_points(self) -> Sequence[PointIndex]:
        """The embedding."""
        return [self.interpolation_point]

    @property
    def extra_points(self) -> Sequence[PointIndex]:
        """None."""
        return ()

    @property
    def interpolation_point(self) -> PointIndex:
        """The embedding."""
        return self.model.layout.index[_EMBEDDING]

    @property
    def needs_other_run(self) -> bool:
        """No: a line may begin at zero."""
        return False

    def fractions(self) -> Sequence[float]:
        """Of equal intervals the midpoints."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]

    def describe_tensors(self, plan: pb.AttributionPlan) -> None:
        """One tensor."""
        plan.tensors.tensors.append(
            tensor_pb2.TensorSpec(
                site=_EMBEDDING.to_message(),
                dtype=tensor_pb2.DATA_TYPE_FLOAT32,
                axes=[tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION],
                shape=[1, -1],
            )
        )
        plan.layers.append(pb.AttributedLayers())

    def start(self, other: PassResult | None) -> InputScores:
        """The scores of a batch."""
        assert other is not None
        return InputScores(self, other)


@dataclass(slots=True)
class InputScores:
    """Scores of one batch.

    Args:
        kind: what is scored.
        other: the run at the end of the line.
    """

    method: InputAttribution
    other: PassResult
    _edited: PassResult | None = None
    _gradient: mx.array | None = None

    def add(self, passed: PassResult, edited: PassResult) -> None:
        """Sums the gradients."""
        gradient = passed.gradients[self.method.interpolation_point].astype(mx.float32)
        self._edited = edited
        self._gradient = gradient if self._gradient is None else self._gradient + gradient
        mx.eval(self._gradient)

    def finish(self) -> Sequence[mx.array]:
        """(rows, positions)"""
        assert self._edited is not None
        assert self._gradient is not None
        line = self.method.interpolation_point
        difference = (self.other.activations[line] - self._edited.activations[line]).astype(mx.float32)
        scores = (difference * self._gradient).sum(axis=-1) / self.method.steps
        mx.eval(scores)
        return [scores]


def parse_inputs(message: pb.IntegratedGradients, model: LoadedModel) -> InputAttribution:
    """The scores of a request.

    Raises:
        UnavailableSiteError: the embedding cannot be read and written.
    """
    model.require_point(_EMBEDDING, "inputs")
    check_has_gradient(model, _EMBEDDING, "inputs")
    return InputAttribution(model, message.steps or _DEFAULT_STEPS)
