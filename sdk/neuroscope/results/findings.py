"""What was found of a residual stream besides arrays: logits that were attributed, and what lenses see of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import residual_pb2 as pb


@dataclass(frozen=True, slots=True)
class AttributedToken:
    """A token, and what the sum of all direct contributions says of it."""

    token_id: int
    """The token."""
    text: str
    """By itself."""
    logit: float
    """The model's."""
    sum: float
    """Of all contributions and constants: the logit before the softcap, where there is one."""
    constant: float
    """What of the sum no component contributes."""


@dataclass(frozen=True, slots=True)
class AttributedNeuron:
    """A neuron's direct contribution."""

    layer: int
    """From 0."""
    neuron: int
    """From 0."""
    activation: float
    """At the position."""
    logit: float
    """What it adds to the logit, or to the difference."""


@dataclass(frozen=True, slots=True)
class LogitAttribution:
    """Direct logit attribution at one position, with the final norm frozen at what it divides by in the run."""

    position: int
    """Where the answer is predicted."""
    answer: AttributedToken
    """What is attributed."""
    other: AttributedToken | None
    """What it is compared with; None: nothing."""
    norm_scale: float
    """What the final norm divides by."""
    logit_scale: float
    """What logits are multiplied with; contributions hold it."""
    softcap: float | None
    """Logits go through it after the sum; None: they do not."""
    neurons: tuple[AttributedNeuron, ...]
    """Those that were asked for, strongest first."""

    @property
    def sum(self) -> float:
        """The logit, or the difference, as the sum has it, constants included."""
        return self.answer.sum - (0.0 if self.other is None else self.other.sum)

    @property
    def constant(self) -> float:
        """What of the sum no component contributes."""
        return self.answer.constant - (0.0 if self.other is None else self.other.constant)

    @classmethod
    def from_message(cls, told: pb.LogitAttribution) -> LogitAttribution:
        """As the contract carries it."""
        return cls(
            position=told.position,
            answer=_token(told.answer),
            other=_token(told.other) if told.HasField("other") else None,
            norm_scale=told.norm_scale,
            logit_scale=told.logit_scale,
            softcap=told.softcap if told.HasField("softcap") else None,
            neurons=tuple(
                AttributedNeuron(each.layer, each.neuron, each.activation, each.logit) for each in told.neurons
            ),
        )


def _token(told: pb.AttributedToken) -> AttributedToken:
    return AttributedToken(told.token_id, told.text, told.logit, told.sum, told.constant)


@dataclass(frozen=True, slots=True)
class LensReading:
    """What lenses see of an answer at its position."""

    answer_id: int
    """The token that was looked for."""
    emergence: int | None
    """The point from which on it stays the likeliest: 0 before the first layer; None: in the end it is not."""
    tuned_emergence: int | None
    """The same by the tuned lens; None where there is none, too."""
    texts: dict[int, str]
    """Of all tokens that are among the likeliest somewhere."""

    @classmethod
    def from_message(cls, told: pb.LensReading) -> LensReading:
        """As the contract carries it."""
        return cls(
            answer_id=told.answer_id,
            emergence=told.emergence if told.HasField("emergence") else None,
            tuned_emergence=told.tuned_emergence if told.HasField("tuned_emergence") else None,
            texts={each.token_id: each.text for each in told.texts},
        )


@dataclass(frozen=True, slots=True)
class SumError:
    """How far the sum of all that is written is from the stream."""

    components: float
    """Embedding and contributions against the last stream: the largest difference, as a share of its norm."""
    heads: float | None
    """Heads and their biases against what attention writes; None: heads were left out."""
