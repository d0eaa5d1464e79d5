"""A direction at a point of the model, and edits along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.directions.finding import NOT_TESTED, Separation
from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import Intervention, add, edit
from neuroscope.vocabulary.selection import Steps
from neuroscope.vocabulary.sites import Point


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A direction from the negative to the positive set."""

    point: Point
    vector: NDArray[np.float32]
    """(width,); its norm is the distance between the means of the two sets along it."""
    separation: Separation = NOT_TESTED
    """Cross-validated accuracy."""
    middle: float = float("nan")
    """Projection of the midpoint between the means on the unit vector."""

    def __repr__(self) -> str:
        tested = f", {self.separation.correct} of {self.separation.count} told apart" if self.separation.count else ""
        return f"Direction({self.point}, width {self.vector.size}, norm {self.norm:.4g}{tested})"

    @property
    def norm(self) -> float:
        """Norm, in units of the activation."""
        return float(np.linalg.norm(self.vector))

    def project(self, activation: NDArray[Any]) -> NDArray[np.float64]:
        """Signed distance of activations (..., width) from the midpoint along the unit vector; positives are > 0."""
        return np.asarray(activation, np.float64) @ (self.vector / self.norm) - self.middle

    def steer(
        self,
        coefficient: float = 1.0,
        *,
        schedule: Sequence[float] | None = None,
        steps: Steps = None,
        **select: Any,
    ) -> list[Intervention]:
        """Edits that add a multiple of the direction: activation steering (Turner et al. 2023, arXiv:2308.10248).

        Args:
            coefficient: 1 shifts by the distance between the two sets; negative coefficients shift the other way.
            schedule: factors of the coefficient at step 0 (the prompt), 1, 2, ...; the last one is kept. None for 1.
            steps: steps of a generation, instead of a schedule.
            select: further arguments of `neuroscope.edit`, such as `positions`; by default every position.

        Raises:
            InvalidRequestError: the schedule is empty, not finite or given together with steps; or all factors are 0.
        """
        if schedule is None:
            return [self._add(coefficient, steps, select)] if coefficient else _nothing("coefficient")
        factors = [float(factor) for factor in schedule]
        if not factors or not np.isfinite(factors).all():
            raise InvalidRequestError("a schedule is a list of numbers, one for each step", field="schedule")
        if steps is not None:
            raise InvalidRequestError("a schedule says itself at which steps", field="steps")
        edits: list[Intervention] = []
        first = 0
        for step in range(1, len(factors) + 1):
            if step < len(factors) and factors[step] == factors[first]:
                continue
            stop = step if step < len(factors) else None
            if coefficient * factors[first]:
                edits.append(self._add(coefficient * factors[first], slice(first, stop), select))
            first = step
        return edits or _nothing("schedule")

    def remove(self, **select: Any) -> Intervention:
        """The edit that projects the direction out: directional ablation (Arditi et al. 2024, arXiv:2406.11717).

        Args:
            select: further arguments of `neuroscope.edit`, such as `steps` and `positions`.
        """
        point = self.point
        return edit(
            point.component, point.layer, lambda act: act.project_out(self.vector), is_input=point.is_input, **select
        )

    def _add(self, coefficient: float, steps: Steps, select: dict[str, Any]) -> Intervention:
        point = self.point
        return add(
            point.component, point.layer, self.vector, coefficient, steps=steps, is_input=point.is_input, **select
        )


def _nothing(field: str) -> list[Intervention]:
    raise InvalidRequestError("it would add nothing at any step", field=field)
