"""Activations of the reference prompts, and their means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.pair import FIRST_REFERENCE, Pair
from neuroscope_inference.engine.sweeps.single_run import run


class ReferenceActivations:
    """What pairs ask of the reference prompts; each prompt runs once for all pairs.

    Args:
        model: what runs.
        prompts: token ids.
        rows: rows of a pair and points that cells ask for.
    """

    def __init__(self, model: LoadedModel, prompts: Sequence[Sequence[int]], rows: set[tuple[int, PointIndex]]) -> None:
        self._model = model
        self._prompts = prompts
        self._mean_row = FIRST_REFERENCE + len(prompts)
        self._rows = {(row, point) for row, point in rows if row >= FIRST_REFERENCE}
        self._activations: dict[tuple[int, PointIndex], mx.array] = {}
        self._sums: dict[tuple[int, PointIndex], mx.array] = {}

    def gather(self) -> Iterator[None]:
        """Runs the prompts, one a step."""
        of_means = {point for row, point in self._rows if row >= self._mean_row}
        reader = OutputReader(self._model.layout, cuts=False)
        for index, prompt in enumerate(self._prompts):
            row = FIRST_REFERENCE + index
            points = of_means | {point for of_row, point in self._rows if of_row == row}
            if not points:
                continue
            found = run(
                self._model, reader, prompt, row, (), caches.new_cache(self._model.network), sorted(points)
            ).activations
            for of_row, point in self._rows:
                if of_row == row:
                    self._activations[row, point] = found[point]
                elif of_row >= self._mean_row:
                    self._add(of_row, point, found[point].astype(mx.float32))
            mx.eval(list(self._sums.values()))
            yield None

    def activations_for(self, pair: Pair) -> dict[tuple[int, PointIndex], mx.array]:
        """By row of the pair and point, the activation; a mean over positions stands at all of the edited run's."""
        given = dict(self._activations)
        tokens = sum(map(len, self._prompts))
        for (row, point), total in self._sums.items():
            if row > self._mean_row:
                given[row, point] = total / len(self._prompts)
                continue
            axis = self._position_axis(point)
            shape = list(total.shape)
            shape[axis] = pair.length
            given[row, point] = mx.broadcast_to(total / tokens, shape)
        return given

    def _add(self, row: int, point: PointIndex, value: mx.array) -> None:
        if row == self._mean_row:
            value = value.sum(axis=self._position_axis(point), keepdims=True)
        self._sums[row, point] = self._sums[row, point] + value if (row, point) in self._sums else value

    def _position_axis(self, point: PointIndex) -> int:
        component = self._model.layout.states[point].point.component
        return COMPONENTS[component].axes.index(tensor_pb2.AXIS_POSITION)
