"""Contributions of components to the residual stream r of the last layer, position by position.

    norm      |c|
    share     c . r / |r|^2; the shares of all components sum to 1
    cosine    c . r / (|c| |r|)
    stream    norm and cosine of the residual stream before the first layer and after each layer
    drift     1 - cosine between the residual streams before and after a layer

Values of heads are means over positions. Sums are in float64; the sum of all components is compared with r.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from neuroscope_analysis.residual.activation_chunks import ActivationChunk, Floats
from neuroscope_analysis.residual.components import ATTN_CONTRIB, RESID_POST, Components
from neuroscope_analysis.residual.head_weights import HEAD_OUTPUT, HeadWeights, max_head_count

COMPONENT_ARRAYS = ("norm", "share", "cosine")
STREAM_ARRAYS = ("stream_norm", "stream_cosine")
DRIFT = "drift"
HEAD_ARRAYS = ("head_norm", "head_share", "head_cosine")
_TINY = 1e-30
_CHECKED_POSITIONS = 16
"""Number of positions of a chunk at which the sum of heads is compared with the output of attention."""


class ContributionStatistics:
    """Contributions of one prompt.

    Args:
        components: components that write.
        heads: heads by layer; empty: no heads.
        length: number of tokens.
    """

    def __init__(self, components: Components, heads: Mapping[int, HeadWeights], length: int) -> None:
        self._components = components
        self._heads = heads
        self._grams = {layer: each.gram for layer, each in heads.items()}
        count, layers = len(components.written), components.layer_count
        self.arrays = {name: np.full((count, length), np.nan, np.float32) for name in COMPONENT_ARRAYS}
        self.arrays |= {name: np.full((layers + 1, length), np.nan, np.float32) for name in STREAM_ARRAYS}
        self.arrays[DRIFT] = np.full((layers, length), np.nan, np.float32)
        self._head_sums = {name: np.full((layers, max_head_count(heads)), np.nan) for name in HEAD_ARRAYS}
        self._length = length
        self.error = 0.0
        """Maximum error of the sum of components, relative to the norm of the residual stream."""
        self.head_error = 0.0
        """Maximum error of the sum of heads, relative to the norm of attention's output; at some positions of each
        chunk."""

    def add(self, chunk: ActivationChunk) -> None:
        """Adds a chunk."""
        components = self._components
        at = chunk.positions(RESID_POST, components.layer_count - 1)
        final = chunk.array(RESID_POST, components.layer_count - 1).astype(np.float64)
        size = np.maximum(np.linalg.norm(final, axis=1), _TINY)
        total = np.zeros_like(final)
        before = total
        points = 0
        written = components.written_in(chunk)
        for index, (component, one) in enumerate(zip(components.written, written, strict=True)):
            norm = np.linalg.norm(one, axis=1)
            along = np.einsum("pd,pd->p", one, final)
            self.arrays["norm"][index, at] = norm
            self.arrays["share"][index, at] = along / size**2
            self.arrays["cosine"][index, at] = along / np.maximum(norm * size, _TINY)
            total = total + one
            follows = components.written[index + 1].layer if index + 1 < len(written) else components.layer_count
            if follows == component.layer:
                continue
            length = np.maximum(np.linalg.norm(total, axis=1), _TINY)
            self.arrays["stream_norm"][points, at] = length
            self.arrays["stream_cosine"][points, at] = np.einsum("pd,pd->p", total, final) / (length * size)
            if points:
                earlier = np.maximum(np.linalg.norm(before, axis=1), _TINY)
                cosine = np.einsum("pd,pd->p", before, total) / (earlier * length)
                self.arrays[DRIFT][points - 1, at] = 1 - cosine
            points, before = points + 1, total
        self.error = max(self.error, float((np.linalg.norm(total - final, axis=1) / size).max()))
        for layer, heads in self._heads.items():
            self._add_heads(chunk, layer, heads, final.astype(np.float32), size)

    def _add_heads(
        self, chunk: ActivationChunk, layer: int, heads: HeadWeights, final: Floats, size: NDArray[np.float64]
    ) -> None:
        z = chunk.array(HEAD_OUTPUT, layer)  # (P, head, d_head)
        count = z.shape[1]
        divisor = self._divisor(chunk, layer, heads)[:, None]
        by_head = np.ascontiguousarray(z.swapaxes(0, 1))
        squares = np.einsum("hpi,hpi->hp", by_head @ self._grams[layer], by_head)
        norm = np.sqrt(np.maximum(squares.T, 0)) / divisor
        along = np.einsum("phi,phi->ph", z, heads.dot(final)) / divisor
        cosine = along / np.maximum(norm * size[:, None], _TINY)
        for name, values in zip(HEAD_ARRAYS, (norm, along / size[:, None] ** 2, cosine), strict=True):
            sums = self._head_sums[name][layer, :count]
            self._head_sums[name][layer, :count] = np.nan_to_num(sums) + values.sum(axis=0, dtype=np.float64)
        some = slice(0, None, max(1, len(z) // _CHECKED_POSITIONS))
        whole = (z[some].reshape(-1, count * z.shape[2]) @ heads.output.reshape(-1, final.shape[1]) + heads.bias) / (
            divisor[some]
        )
        attention = chunk.array(ATTN_CONTRIB, layer)[some]
        wrong = np.linalg.norm(whole + heads.post_norm.shift - attention, axis=1)
        self.head_error = max(
            self.head_error, float((wrong / np.maximum(np.linalg.norm(attention, axis=1), _TINY)).max())
        )

    def _divisor(self, chunk: ActivationChunk, layer: int, heads: HeadWeights) -> NDArray[np.float64]:
        if heads.post_norm.norm is None:
            return np.ones(len(chunk.array(HEAD_OUTPUT, layer)))
        return heads.post_norm.divisor(chunk.array("attn_out", layer))

    def result_arrays(self) -> dict[str, Floats]:
        """The arrays by name; NaN for missing heads."""
        heads = {name: (sums / self._length).astype(np.float32) for name, sums in self._head_sums.items()}
        return self.arrays | (heads if self._heads else {})
