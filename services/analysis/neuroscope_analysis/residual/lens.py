"""What each layer would predict: the logit lens and a tuned one, of one prompt.

nostalgebraist, "interpreting GPT: the logit lens" (2020); Belrose et al. 2023, arXiv:2303.08112. The model's own end is
applied by the inference service: to the stream itself as it runs, to translated streams by ProjectToVocabulary.

    tokens, probability     the likeliest (point, position, rank)
    kl                      KL(model || lens) in nats (point, position)
    entropy                 in nats
    answer_rank             how many tokens are likelier than the answer; answer_probability is its own
"""

from __future__ import annotations

import numpy as np

from neuroscope.activations.vocabulary_projection import VocabularyProjection
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope_analysis.residual.chunks import Chunk, Floats, Positions
from neuroscope_analysis.residual.components import ENTERS, STREAM

LOGIT_LENS, TUNED_LENS = "lens", "tuned"
OF_RANKS = ("tokens", "probability")
OF_POSITIONS = ("kl", "entropy", "answer_rank", "answer_probability")
_REDUCED = {
    "tokens": tensor_pb2.REDUCED_LENS_TOP_K_TOKENS,
    "probability": tensor_pb2.REDUCED_LENS_TOP_K,
    "kl": tensor_pb2.REDUCED_LENS_KL,
    "entropy": tensor_pb2.REDUCED_LENS_ENTROPY,
    "answer_rank": tensor_pb2.REDUCED_LENS_RANK,
    "answer_probability": tensor_pb2.REDUCED_LENS_LOG_PROBABILITY,
}
_LOGARITHMS = ("probability", "answer_probability")


def hooks(top_k: int, answer: int) -> list[Hook]:
    """What the logit lens captures."""
    reduce = {"lens": {"top_k": top_k, "token_ids": [answer], "kl": True, "entropy": True}}
    return [Hook(ENTERS, 0, hook_id="lens_enters", reduce=reduce), Hook(STREAM, hook_id="lens", reduce=reduce)]


def stream_points(layer_count: int) -> list[tuple[str, int]]:
    """Where the stream is seen: before the first layer, then behind each."""
    return [(ENTERS, 0), *((STREAM, layer) for layer in range(layer_count))]


class LensSums:
    """What one lens sees of one prompt.

    Args:
        layer_count: of the model.
        length: tokens of the prompt.
        top_k: likeliest tokens.
        answer: the token that is looked for.
    """

    def __init__(self, layer_count: int, length: int, top_k: int, answer: int) -> None:
        self._points = stream_points(layer_count)
        shape = (layer_count + 1, length)
        self.answer = answer
        self.arrays: dict[str, Floats] = {name: np.full((*shape, top_k), np.nan, np.float32) for name in OF_RANKS}
        self.arrays |= {name: np.full(shape, np.nan, np.float32) for name in OF_POSITIONS}

    def add(self, chunk: Chunk) -> None:
        """Takes in what the service saw of the stream itself."""
        for point, (component, layer) in enumerate(self._points):
            for name, reduced in _REDUCED.items():
                values = chunk.of(component, layer, reduced)
                at = chunk.positions(component, layer, reduced)
                found = values[:, 0] if name.startswith("answer") else values
                self.arrays[name][point, at] = np.exp(found) if name in _LOGARITHMS else found

    def put(self, point: int, at: Positions, seen: VocabularyProjection) -> None:
        """Takes in what the service saw of translated streams."""
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

    def named(self, lens: str) -> dict[str, Floats]:
        """The arrays by the names of results."""
        return {f"{lens}_{name}": values for name, values in self.arrays.items()}

    def token_ids(self) -> set[int]:
        """Every token that is among the likeliest somewhere."""
        return {int(token) for token in np.unique(self.arrays["tokens"])}

    def emergence(self, position: int) -> int | None:
        """The first point from which on the answer stays the likeliest at a position; None: it is not, in the end.

        Where another token is as likely, it is not the likeliest: all are alike where nothing has been written.
        """
        likeliest = self.arrays["answer_rank"][:, position] == 0
        probabilities = self.arrays["probability"][:, position]
        if probabilities.shape[1] > 1:
            likeliest &= probabilities[:, 1] < probabilities[:, 0]
        others = np.flatnonzero(~likeliest)
        first = int(others[-1]) + 1 if others.size else 0
        return first if first < len(likeliest) else None
