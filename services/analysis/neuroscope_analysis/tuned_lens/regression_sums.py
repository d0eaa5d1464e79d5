"""Accumulated sums for ridge regression, and a sample of tokens for L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]

from neuroscope_analysis.residual.activation_chunks import ActivationChunk, Floats
from neuroscope_analysis.residual.components import RESID_POST
from neuroscope_analysis.residual.lens import stream_points

_TINY = 1e-12


class RegressionSums:
    """Sums over tokens for some points.

    Args:
        points: the points.
        layer_count: number of layers of the model.
        width: d_model.
        sample: size of the uniform sample of tokens; 0: none.
        seed: seed of the sample.
    """

    def __init__(self, points: Sequence[int], layer_count: int, width: int, sample: int, seed: int = 0) -> None:
        self._places = stream_points(layer_count)
        self._last = layer_count - 1
        self.points = list(points)
        self._squares = {point: np.zeros((width + 1, width + 1)) for point in points}
        self._products = {point: np.zeros((width + 1, width)) for point in points}
        self._random = np.random.default_rng(seed)
        self._seen = 0
        self.sample: dict[int, Floats] = {point: np.zeros((sample, width), np.float32) for point in points}
        self.sample_final = np.zeros((sample, width), np.float32)
        self.sample_count = 0

    def add(self, chunk: ActivationChunk) -> None:
        """Adds a chunk."""
        final = chunk.array(RESID_POST, self._last)
        weight = 1 / np.maximum(np.sqrt(np.square(final, dtype=np.float64).mean(axis=1)), _TINY)
        slots = self._slots(len(final))
        kept = slots >= 0
        self.sample_final[slots[kept]] = final[kept]
        for point in self.points:
            stream = chunk.array(*self._places[point])
            read = np.concatenate([stream, np.ones((len(stream), 1), np.float32)], axis=1) * weight[:, None]
            self._squares[point] += read.T @ read
            self._products[point] += read.T @ ((final.astype(np.float64) - stream) * weight[:, None])
            self.sample[point][slots[kept]] = stream[kept]

    def ridge(self, point: int, penalty: float) -> tuple[Floats, Floats]:
        """The ridge solution: weight (d_model, d_model) and bias (d_model,).

        Args:
            point: the point.
            penalty: ridge penalty relative to the mean square of the input.
        """
        squares, products = self._squares[point], self._products[point]
        width = products.shape[1]
        size = np.trace(squares[:width, :width]) / width
        diagonal = np.full(width + 1, penalty * size)
        diagonal[width] = 0
        found: NDArray[np.float64] = cast("Any", linalg).solve(
            squares + np.diag(diagonal + _TINY * size), products, assume_a="pos"
        )
        return found[:width].astype(np.float32), found[width].astype(np.float32)

    def _slots(self, count: int) -> NDArray[np.int64]:
        """The slot of each token in the sample, or -1: reservoir sampling (Vitter 1985)."""
        size = len(self.sample_final)
        slots = np.full(count, -1, np.int64)
        for index in range(count):
            if self._seen < size:
                slots[index] = self._seen
            else:
                drawn = int(self._random.integers(self._seen + 1))
                if drawn < size:
                    slots[slots == drawn] = -1
                    slots[index] = drawn
            self._seen += 1
        self.sample_count = min(self._seen, size)
        return slots
