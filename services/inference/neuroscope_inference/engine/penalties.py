"""What changes logits before a token is drawn: a bias by token id, and penalties on tokens that the row has already.

The formulas, and their order, are those of `mlx_lm.sample_utils.make_logits_processors`: bias, repetition (Keskar et
al. 2019, arXiv:1909.05858), presence, frequency. What counts are the tokens of the row so far, prompt and generated,
unless the request counts fewer. They come as an array, so that a token counts that was drawn and has not been read yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb

_MAX = 100.0
"""Of a penalty or a bias; logits that matter differ by less."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """Checked parameters of a request."""

    presence: float
    frequency: float
    repetition: float
    context_size: int
    generated_only: bool
    bias: tuple[tuple[int, float], ...]

    @classmethod
    def from_message(cls, message: pb.Sampling) -> Penalties:
        """Checks every field but the ids of biased tokens.

        Raises:
            InvalidRequestError: one is out of its range; names it.
        """
        repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
        if not 0 < repetition <= _MAX:
            raise InvalidRequestError(
                f"sampling.repetition_penalty is above 0 and at most {_MAX:g}, not {repetition}",
                field="sampling.repetition_penalty",
            )
        return cls(
            presence=check_range(message.presence_penalty, "presence_penalty"),
            frequency=check_range(message.frequency_penalty, "frequency_penalty"),
            repetition=repetition,
            context_size=message.penalty_context_size,
            generated_only=message.penalize_generated_only,
            bias=tuple(
                sorted((token, check_range(bias, f"logit_bias[{token}]")) for token, bias in message.logit_bias.items())
            ),
        )

    def check_vocabulary(self, size: int) -> None:
        """Checks that the biased tokens are there.

        Raises:
            InvalidRequestError: one is not.
        """
        for token, _ in self.bias:
            if token >= size:
                raise InvalidRequestError(
                    f"there is no token {token}: the model's output has {size} entries",
                    field=f"sampling.logit_bias[{token}]",
                )

    @property
    def uses_history(self) -> bool:
        """Whether the tokens of the row matter."""
        return bool(self.presence or self.frequency or self.repetition != 1)

    def apply(self, logits: mx.array, tokens: mx.array | None) -> mx.array:
        """The logits that tokens are drawn from, lazy.

        Args:
            logits: (1, vocab), float32.
            tokens: (n,), those that count, oldest first; None where none do.
        """
        if self.bias:
            ids, values = zip(*self.bias, strict=True)
            logits = logits.at[:, mx.array(ids)].add(mx.array(values, mx.float32))
        if not self.uses_history or tokens is None or not tokens.size:
            return logits
        tokens = tokens[-self.context_size :]  # [-0:] is all of them
        seen = mx.zeros(logits.shape[-1], mx.bool_)
        seen[tokens] = True
        if self.repetition != 1:
            penalised = mx.where(logits < 0, logits * self.repetition, logits / self.repetition)
            logits = mx.where(seen, penalised, logits)
        if self.presence:
            logits = mx.where(seen, logits - self.presence, logits)
        if self.frequency:
            logits = logits.at[:, tokens].subtract(self.frequency)
        return logits


def check_range(value: float, name: str, low: float = -_MAX, high: float = _MAX) -> float:
    """The value of a sampling parameter.

    Raises:
        InvalidRequestError: it is NaN or out of range.
    """
    if not low <= value <= high:  # also refuses NaN
        raise InvalidRequestError(
            f"sampling.{name} is between {low:g} and {high:g}, not {value}", field=f"sampling.{name}"
        )
    return value
