"""Findings of a residual stream analysis besides arrays: attributed logits, lens readings, reconstruction errors."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import residual_pb2 as pb


@dataclass(frozen=True, slots=True)
class AttributedToken:
    """A token's logit, and its reconstruction from direct contributions."""

    token_id: int
    """Id of the token."""
    text: str
    """Text of the token."""
    logit: float
    """The model's logit."""
    sum: float
    """Sum of all contributions and the constant: the logit before any softcap."""
    constant: float
    """The part of the sum that no component contributes."""


@dataclass(frozen=True, slots=True)
class AttributedNeuron:
    """The direct contribution of a neuron."""

    layer: int
    """From 0."""
    neuron: int
    """From 0."""
    activation: float
    """Activation at the position."""
    logit: float
    """Contribution to the logit or logit difference."""


@dataclass(frozen=True, slots=True)
class LogitAttribution:
    """Direct logit attribution at one position, with the scale of the final norm frozen."""

    position: int
    """The position that predicts the answer."""
    answer: AttributedToken
    """The attributed token."""
    other: AttributedToken | None
    """The token that it is compared with, if any."""
    norm_scale: float
    """Divisor of the final norm."""
    logit_scale: float
    """Factor of the logits, included in contributions."""
    softcap: float | None
    """Softcap applied to the logits after the sum; None if the model has none."""
    neurons: tuple[AttributedNeuron, ...]
    """Requested neurons, strongest first."""

    @property
    def sum(self) -> float:
        """The reconstructed logit or logit difference, including constants."""
        return self.answer.sum - (0.0 if self.other is None else self.other.sum)

    @property
    def constant(self) -> float:
        """The part of the sum that no component contributes."""
        return self.answer.constant - (0.0 if self.other is None else self.other.constant)

    @classmethod
    def from_message(cls, message: pb.LogitAttribution) -> LogitAttribution:
        """From the contract's message."""
        return cls(
            position=message.position,
            answer=_token(message.answer),
            other=_token(message.other) if message.HasField("other") else None,
            norm_scale=message.norm_scale,
            logit_scale=message.logit_scale,
            softcap=message.softcap if message.HasField("softcap") else None,
            neurons=tuple(
                AttributedNeuron(each.layer, each.neuron, each.activation, each.logit) for each in message.neurons
            ),
        )


def _token(message: pb.AttributedToken) -> AttributedToken:
    return AttributedToken(message.token_id, message.text, message.logit, message.sum, message.constant)


@dataclass(frozen=True, slots=True)
class LensReading:
    """Where the lenses predict an answer."""

    answer_id: int
    """Id of the answer's token."""
    emergence: int | None
    """First point from which the answer stays the likeliest token, 0 before the first layer; None if it never does."""
    tuned_emergence: int | None
    """The same by the tuned lens; None if there is no tuned lens."""
    texts: dict[int, str]
    """Text of every token that is among the likeliest at any point."""

    @classmethod
    def from_message(cls, message: pb.LensReading) -> LensReading:
        """From the contract's message."""
        return cls(
            answer_id=message.answer_id,
            emergence=message.emergence if message.HasField("emergence") else None,
            tuned_emergence=message.tuned_emergence if message.HasField("tuned_emergence") else None,
            texts={each.token_id: each.text for each in message.texts},
        )


@dataclass(frozen=True, slots=True)
class SumError:
    """Error of reconstructing the residual stream as a sum of contributions."""

    components: float
    """Sum of embedding and contributions versus the last stream: largest difference relative to its norm."""
    heads: float | None
    """Sum of heads and biases versus the attention output; None if heads were not computed."""
