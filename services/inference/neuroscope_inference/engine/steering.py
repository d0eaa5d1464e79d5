"""The edits of a running generation over its steps."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.model import LoadedModel


@dataclass(slots=True)
class Steering:
    """The edits of a running generation: those of the request, and those that came later.

    Args:
        plans: (first step, edits), in the order in which they came.
    """

    plans: list[tuple[int, EditPlan]]

    @classmethod
    def without_edits(cls, model: LoadedModel) -> Steering:
        """No edits at all."""
        return cls([(0, EditPlan(model, (), (), 0, _unasked))])

    @property
    def current(self) -> EditPlan:
        """The newest."""
        return self.plans[-1][1]

    @property
    def has_edits(self) -> bool:
        """Whether anything was ever edited, or will be."""
        return any(plan.edits for _, plan in self.plans)

    def plan_at(self, step: int) -> EditPlan:
        """Those that govern a step."""
        return next(plan for first, plan in reversed(self.plans) if first <= step)

    def replace_from(self, plan: EditPlan, first_step: int) -> None:
        """Replaces the edits from a step on."""
        self.plans.append((first_step, plan))


def _unasked(reference: tensor_pb2.TensorReference, path: str) -> Array:
    raise AssertionError(f"no edit refers to a tensor: {path}, {reference}")
