"""Logit lens and tuned lens of one prompt.

nostalgebraist, "interpreting GPT: the logit lens" (2020); Belrose et al. 2023, arXiv:2303.08112. The inference service
applies final norm and unembedding: during the run for the logit lens, by ProjectToVocabulary for the tuned lens.

    tokens, probability     top tokens (point, position, rank)
    kl                      KL(model || lens) in nats (point, position)
    entropy                 in nats
    answer_rank             number of tokens that are more likely than the answer; answer_probability is its probability
"""

from __future__ import annotations

import numpy as np

from neuroscope.activations.vocabulary_projection import VocabularyProjection
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, Floats, Positions
from neuroscope_analysis.residual.components import RESID_POST, RESID_PRE

LOGIT_LENS, TUNED_LENS = "lens", "tuned"
RANK_ARRAYS = ("tokens", "probability")
POSITION_ARRAYS = ("kl", "entropy", "answer_rank", "answer_probability")
_REDUCED = {
    "tokens": tensor_pb2.REDUCED_LENS_TOP_K_TOKENS,
    "probability": tensor_pb2.REDUCED_LENS_TOP_K,
    "kl": tensor_pb2.REDUCED_LENS_KL,
    "entropy": tensor_pb2.REDUCED_LENS_ENTROPY,
    "answer_rank": tensor_pb2.REDUCED_LENS_RANK,
    "answer_probability": tensor_pb2.REDUCED_LENS_LOG_PROBABILITY,
}
_LOG_PROBABILITIES = ("probability", "answer_probability")


def hooks(top_k: int, answer: int) -> list[Hook]:
    """The hooks of the logit lens."""
    reduce = {"lens": {"top_k": top_k, "token_ids": [answer], "kl": True, "entropy": True}}
    return [Hook(RESID_PRE, 0, hook_id="lens_enters", reduce=reduce), Hook(RESID_POST, hook_id="lens", reduce=reduce)]


def stream_points(layer_count: int) -> list[tuple[str, int]]:
    """The points of the residual stream: before the first layer, then after each layer."""
    return [(RESID_PRE, 0), *((RESID_POST, layer) for layer in range(layer_count))]


class LensReadings:
    """The readings of one lens on one prompt.

    Args:
        layer_count: number of layers of the model.
        length: number of tokens of the prompt.
        top_k: number of top tokens.
        answer: token id of the answer.
    """

    def __init__(self, layer_count: int, length: int, top_k: int, answer: int) -> None:
        self._points = stream_points(layer_count)
        shape = (layer_count + 1, length)
        self.answer = answer
        self.arrays: dict[str, Floats] = {name: np.full((*shape, top_k), np.nan, np.float32) for name in RANK_ARRAYS}
        self.arrays |= {name: np.full(shape, np.nan, np.float32) for name in POSITION_ARRAYS}

    def add(self, chunk: ActivationChunk) -> None:
        """Adds the logit lens of a chunk."""
        for point, (component, layer) in enumerate(self._points):
            for name, reduced in _REDUCED.items():
                values = chunk.array(component, layer, reduced)
                at = chunk.positions(component, layer, reduced)
                found = values[:, 0] if name.startswith("answer") else values
                self.arrays[name][point, at] = np.exp(found) if name in _LOG_PROBABILITIES else found

    def add_projected(self, point: int, at: Positions, seen: VocabularyProjection) -> None:
        """Adds a projection of translated residual streams."""
        assert seen.kl is not None
        found = {
            "tokens": seen.top_token_ids,
            "probability": seen.top_probabilities,
            "kl": seen.kl,
            "entropy": seen.entropies,
            "answer_rank": seen.ranks[:, 0],
            "answer_probability": np.exp(seen.log_probabilities[:, 0]),
        }
        for name, values in found.items():
            self.arrays[name][point, at] = values

    def named_arrays(self, lens: str) -> dict[str, Floats]:
        """The arrays by their names in results."""
        return {f"{lens}_{name}": values for name, values in self.arrays.items()}

    def token_ids(self) -> set[int]:
        """All top tokens."""
        return {int(token) for token in np.unique(self.arrays["tokens"])}

    def emergence(self, position: int) -> int | None:
        """The first point from which the answer stays the top token at a position; None if it never does.

        A tie does not count: before the first write all tokens are equally likely.
        """
        likeliest = self.arrays["answer_rank"][:, position] == 0
        probabilities = self.arrays["probability"][:, position]
        if probabilities.shape[1] > 1:
            likeliest &= probabilities[:, 1] < probabilities[:, 0]
        others = np.flatnonzero(~likeliest)
        first = int(others[-1]) + 1 if others.size else 0
        return first if first < len(likeliest) else None
