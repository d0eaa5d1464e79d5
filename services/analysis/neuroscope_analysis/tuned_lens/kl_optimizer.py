"""L-BFGS on KL(model || lens), with an analytic gradient through translator, final norm, unembedding and softcap.

Belrose et al. (2023) minimize the same objective by stochastic gradient descent. Here L-BFGS runs on a sample of tokens
in memory and starts from the ridge solution; a tenth of the sample validates the result against it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope_analysis.residual.activation_chunks import Floats
from neuroscope_analysis.residual.lm_head import LMHead

Doubles = NDArray[np.float64]
_VALIDATION_SHARE = 0.1


class Cancelled(Exception):
    """The caller cancelled the training."""


@dataclass(frozen=True, slots=True)
class KLOptimizer:
    """Optimizes translators of one model.

    Args:
        end: final norm and unembedding.
        penalty: ridge penalty relative to the mean square of the input.
        iterations: maximum number of iterations.
        stop: set to cancel.
    """

    end: LMHead
    penalty: float
    iterations: int
    stop: threading.Event

    def minimize(self, stream: Floats, final: Floats, weight: Floats, bias: Floats) -> tuple[Floats, Floats, int]:
        """Optimizes a translator; returns weight, bias and number of iterations, or the initial ones and 0.

        Args:
            stream: residual stream to translate (tokens, d_model).
            final: residual stream of the last layer for the same tokens.
            weight: initial weight (d_model, d_model).
            bias: initial bias (d_model,).

        Raises:
            Cancelled: the caller cancelled the training.
        """
        split = max(1, round(len(stream) * (1 - _VALIDATION_SHARE)))
        wanted = self._log_probabilities(self._logits(final)[0])
        width = stream.shape[1]
        scale = self.penalty * float(np.square(stream).mean()) / max(float(np.square(final).mean()), 1e-30)

        def loss(packed: Doubles) -> tuple[float, Doubles]:
            if self.stop.is_set():
                raise Cancelled
            matrix, offset = _unpacked(packed, width)
            value, gradient = self._loss(stream[:split], wanted[:split], matrix, offset)
            gradient[0] += 2 * scale * matrix
            total = value + scale * float(np.square(matrix).sum())
            return total, np.concatenate([gradient[0].reshape(-1), gradient[1]]).astype(np.float64)

        from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]  # half of what the service loads at start

        began = np.concatenate([weight.reshape(-1), bias]).astype(np.float64)
        found = cast("Any", optimize).minimize(
            loss, began, jac=True, method="L-BFGS-B", options={"maxiter": self.iterations, "maxcor": 10}
        )
        matrix, offset = _unpacked(cast("Doubles", found.x), width)
        rest = slice(split, None) if split < len(stream) else slice(None)
        before = self._loss(stream[rest], wanted[rest], weight, bias)[0]
        after = self._loss(stream[rest], wanted[rest], matrix, offset)[0]
        if after >= before:
            return weight, bias, 0
        return matrix, offset, int(found.nit)

    def _loss(self, stream: Floats, wanted: Floats, weight: Floats, bias: Floats) -> tuple[float, list[Floats]]:
        """The mean KL(wanted || lens), and its gradient by weight and bias."""
        translated = (stream + stream @ weight + bias).astype(np.float32)
        logits, slopes, read, divisor = self._logits(translated)
        seen = self._log_probabilities(logits)
        likely = np.exp(wanted)
        value = float((likely * (wanted - seen)).sum(axis=1).mean())
        of_logits = (np.exp(seen) - likely) / np.float32(len(stream))
        if slopes is not None:
            of_logits *= slopes
        of_normed = (np.float32(self.end.logit_scale) * of_logits) @ self.end.unembedding.T
        of_read = of_normed * self.end.norm.gain.astype(np.float32)
        of_centred = (of_read - read * (of_read * read).mean(axis=1, keepdims=True)) / divisor
        if self.end.norm.is_centred:
            of_centred -= of_centred.mean(axis=1, keepdims=True)
        return value, [stream.T @ of_centred, of_centred.sum(axis=0)]

    def _logits(self, stream: Floats) -> tuple[Floats, Floats | None, Floats, Floats]:
        """Logits, the derivative of the softcap (or None), the normalized stream without gain, the divisor."""
        norm = self.end.norm
        centred = stream - stream.mean(axis=1, keepdims=True) if norm.is_centred else stream
        divisor = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(norm.epsilon))
        read = centred / divisor
        normed = read * norm.gain.astype(np.float32) + norm.shift.astype(np.float32)
        logits = normed @ self.end.unembedding
        if self.end.bias is not None:
            logits += self.end.bias
        logits *= np.float32(self.end.logit_scale)
        if self.end.softcap is None:
            return logits, None, read, divisor
        capped = np.tanh(logits / np.float32(self.end.softcap))
        return capped * np.float32(self.end.softcap), 1 - np.square(capped), read, divisor

    @staticmethod
    def _log_probabilities(logits: Floats) -> Floats:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _unpacked(packed: Doubles, width: int) -> tuple[Floats, Floats]:
    single = packed.astype(np.float32)
    return single[: width * width].reshape(width, width), single[width * width :]
