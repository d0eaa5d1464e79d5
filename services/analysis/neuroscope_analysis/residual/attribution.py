"""Direct logit attribution of one prompt at one position.

Elhage et al. 2021; TransformerLens' `logit_attrs`. The final norm is frozen: each component is centred and divided by
the scale of the run; the biases of norm and unembedding are constants. The sum is the logit before the softcap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import residual_pb2 as pb
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, Floats
from neuroscope_analysis.residual.components import RESID_POST, Components
from neuroscope_analysis.residual.head_weights import HEAD_OUTPUT, NEURONS, HeadWeights, PostNorm, max_head_count
from neuroscope_analysis.residual.lm_head import LMHead

Doubles = NDArray[np.float64]
COMPONENTS, HEADS, BIASES = "direct", "direct_head", "direct_head_bias"


@dataclass(frozen=True, slots=True)
class LogitTarget:
    """The logit, or logit difference, that is attributed.

    Args:
        position: the position that predicts the answer.
        answer: token id of the answer.
        other: token id to compare with; None: none.
    """

    position: int
    answer: int
    other: int | None

    @property
    def tokens(self) -> list[int]:
        """The answer and the other token, if any."""
        return [self.answer] if self.other is None else [self.answer, self.other]


@dataclass(slots=True)
class DirectLogitAttribution:
    """The attribution of one prompt.

    Args:
        target: the logit or logit difference.
        components: components that write.
        heads: heads by layer; empty: no heads.
        end: final norm and unembedding.
        neurons: by layer, each neuron's write along the targets of all prompts, and its post norm.
        prompt: index of the prompt.
    """

    target: LogitTarget
    components: Components
    heads: Mapping[int, HeadWeights]
    end: LMHead
    neurons: Mapping[int, tuple[Doubles, PostNorm]]
    prompt: int
    arrays: dict[str, Floats] = field(default_factory=dict[str, Floats])
    divisor: float = 0.0
    """The divisor of the final norm."""
    sums: list[float] = field(default_factory=list[float])
    """The sum of contributions and constants for each token."""
    activations: dict[int, Doubles] = field(default_factory=dict[int, Doubles])
    """Activations of neurons by layer (d_mlp,)."""
    neuron_logits: dict[int, Doubles] = field(default_factory=dict[int, Doubles])

    def direction(self) -> Doubles:
        """The direction of the target in the residual stream, before the divisor (d_model,)."""
        return logit_direction(self.end, self.target)

    def add(self, chunk: ActivationChunk) -> None:
        """Attributes the target, if the chunk has its position."""
        last = self.components.layer_count - 1
        (found,) = np.nonzero(chunk.positions(RESID_POST, last) == self.target.position)
        if not found.size:
            return
        at = int(found[0])
        self.divisor = float(self.end.norm.divisor(chunk.array(RESID_POST, last)[at]))
        written = np.stack([one[at] for one in self.components.written_in(chunk)]).astype(np.float64)
        of_tokens = [written @ self.end.direction(token) / self.divisor for token in self.target.tokens]
        self.sums = [
            float(each.sum()) + self.end.constant(token)
            for each, token in zip(of_tokens, self.target.tokens, strict=True)
        ]
        direct = of_tokens[0] if len(of_tokens) == 1 else of_tokens[0] - of_tokens[1]
        self.arrays[COMPONENTS] = direct.astype(np.float32)
        if self.heads:
            self._add_heads(chunk, at)
        for layer, (along, behind) in self.neurons.items():
            active = chunk.array(NEURONS, layer)[0].astype(np.float64)
            divisor = 1.0 if behind.norm is None else float(behind.divisor(chunk.array("mlp_out", layer)[0]))
            self.activations[layer] = active
            self.neuron_logits[layer] = active * along[:, self.prompt] / divisor / self.divisor

    def _add_heads(self, chunk: ActivationChunk, at: int) -> None:
        direction = self.direction()
        layers = self.components.layer_count
        found = np.full((layers, max_head_count(self.heads)), np.nan)
        biases = np.full(layers, np.nan)
        for layer, heads in self.heads.items():
            z = chunk.array(HEAD_OUTPUT, layer)[at].astype(np.float64)  # (head, d_head)
            divisor = 1.0
            if heads.post_norm.norm is not None:
                divisor = float(heads.post_norm.divisor(chunk.array("attn_out", layer)[at]))
            along = heads.output.astype(np.float64) @ direction  # (head, d_head)
            found[layer, : len(z)] = (z * along).sum(axis=1) / divisor / self.divisor
            constant = heads.bias.astype(np.float64) @ direction / divisor
            biases[layer] = (constant + np.sum(heads.post_norm.shift * direction)) / self.divisor
        self.arrays[HEADS] = found.astype(np.float32)
        self.arrays[BIASES] = biases.astype(np.float32)

    def to_message(
        self, logits: Sequence[float], texts: Mapping[int, str], neurons: Sequence[pb.AttributedNeuron]
    ) -> pb.LogitAttribution:
        """The attribution as a message.

        Args:
            logits: the model's logits of the tokens.
            texts: texts of the tokens.
            neurons: requested neurons.
        """
        tokens = [
            pb.AttributedToken(
                token_id=token, text=texts.get(token, ""), logit=logit, sum=total, constant=self.end.constant(token)
            )
            for token, logit, total in zip(self.target.tokens, logits, self.sums, strict=True)
        ]
        return pb.LogitAttribution(
            prompt=self.prompt,
            position=self.target.position,
            answer=tokens[0],
            other=tokens[1] if len(tokens) > 1 else None,
            norm_scale=self.divisor,
            logit_scale=self.end.logit_scale,
            softcap=self.end.softcap,
            neurons=neurons,
        )

    def selected_neurons(self, strongest: int, named: Sequence[tuple[int, int]]) -> list[pb.AttributedNeuron]:
        """The named neurons and the strongest ones, strongest first."""
        places = dict.fromkeys(named)
        if strongest:
            for layer, logits in self.neuron_logits.items():
                order = np.argsort(-np.abs(logits), kind="stable")[:strongest]
                places |= dict.fromkeys((layer, int(neuron)) for neuron in order)
        ranked = sorted(places, key=lambda place: -abs(self.neuron_logits[place[0]][place[1]]))
        kept = [place for place in ranked if place in set(ranked[:strongest]) | set(named)]
        return [
            pb.AttributedNeuron(
                layer=layer,
                neuron=neuron,
                activation=float(self.activations[layer][neuron]),
                logit=float(self.neuron_logits[layer][neuron]),
            )
            for layer, neuron in kept
        ]


def logit_direction(end: LMHead, target: LogitTarget) -> Doubles:
    """The direction of a logit, or of a difference, in the residual stream, before the divisor (d_model,)."""
    direction = end.direction(target.answer)
    return direction if target.other is None else direction - end.direction(target.other)
