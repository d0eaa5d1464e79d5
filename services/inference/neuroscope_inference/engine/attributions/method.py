"""What makes scores of gradients: the steps between the passes and the tensors that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.attributions.gradients import PassResult
from neuroscope_inference.engine.hook_plan import PointIndex


class Scores(Protocol):
    """The scores of one batch, as its passes go by."""

    def add(self, passed: PassResult, edited: PassResult) -> None:
        """Takes the gradients at the next input of the line, and the run at its beginning.

        Raises:
            OutOfMemoryError: it takes more memory than there is.
        """
        ...

    def finish(self) -> Sequence[mx.array]:
        """A tensor for every entry of the plan, float32 (rows, ...), evaluated."""
        ...


class AttributionMethod(Protocol):
    """A kind of scores, checked against a model and the pairs."""

    @property
    def gradient_points(self) -> Sequence[PointIndex]:
        """Points whose gradients are wanted."""
        ...

    @property
    def activation_points(self) -> Sequence[PointIndex]:
        """Points whose activations in both runs are compared."""
        ...

    @property
    def extra_points(self) -> Sequence[PointIndex]:
        """Further points whose activations are wanted along with every gradient."""
        ...

    @property
    def interpolation_point(self) -> PointIndex:
        """The point at which inputs lie on a straight line between the two runs."""
        ...

    def fractions(self) -> Sequence[float]:
        """Where on the line gradients are taken: 0 is the edited run, 1 the other one."""
        ...

    @property
    def needs_other_run(self) -> bool:
        """Whether there must be another run."""
        ...

    def describe_tensors(self, plan: pb.AttributionPlan) -> None:
        """Adds the tensors of scores, and what their axes stand for."""
        ...

    def start(self, other: PassResult | None) -> Scores:
        """The scores of a batch whose other run, if there is one, has been made."""
        ...
