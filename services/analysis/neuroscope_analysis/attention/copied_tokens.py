"""How many tokens a head copies or suppresses, by its weights, beside chance.

On trained models most OV circuits have eigenvalues of one sign, so the copying score alone names a large part of the
heads. Here the head's output for each of some random tokens is compared over many tokens: a head copies a token whose
own logit is the largest of all, as the copy score of Wang et al. 2022 (arXiv:2211.00593) has it, and suppresses one
whose own logit is the smallest. Were the tokens shuffled, that would happen once in as many tokens as are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import attention_pb2 as pb

LEAST_SHARE = 0.5
"""Least share of tokens for a label."""
_SOURCES, _COMPARED = 256, 4096

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenSample:
    """The tokens that copying is measured on: the first ones are read, all are compared.

    Args:
        ids: token ids.
        source_count: how many are read.
    """

    ids: NDArray[np.int64]
    source_count: int

    @classmethod
    def draw(cls, token_ids: Sequence[int], seed: int) -> TokenSample:
        """Draws the tokens from those of the random sequences."""
        random = np.random.default_rng(seed)
        ids = random.choice(np.asarray(token_ids), min(_COMPARED, len(token_ids)), replace=False)
        return cls(ids, min(_SOURCES, len(ids)))

    def centred_embeddings(self, embedding: Matrix) -> Matrix:
        """What is read, of root mean square 1 and without its mean: what a head makes of every token copies none.

        Args:
            embedding: (vocabulary, d_model).
        """
        rows = embedding[self.ids[: self.source_count]]
        rows = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-12)
        return rows - rows.mean(axis=0)

    def shares(self, read: Matrix, value: Matrix, output: Matrix, unembedding: Matrix) -> tuple[float, float]:
        """The shares of tokens that a head copies and suppresses.

        Args:
            read: centred embeddings (source, d_model).
            value: (d_model, d_head), with the gain of the norm before attention.
            output: (d_head, d_model).
            unembedding: of the tokens, with the gain of the final norm (d_model, token).
        """
        logits = (read @ value) @ (output @ unembedding)
        own = logits[np.arange(self.source_count), np.arange(self.source_count)][:, None]
        is_largest = (logits >= own).sum(axis=1) == 1
        is_smallest = (logits <= own).sum(axis=1) == 1
        return float(is_largest.mean()), float(is_smallest.mean())

    def comparison(self, share: float, role: pb.HeadRole.ValueType) -> pb.NullComparison:
        """A share beside chance, as labels carry it."""
        extreme = "smallest" if role == pb.HEAD_ROLE_SUPPRESSION else "largest"
        return pb.NullComparison(
            statistic=f"share of {self.source_count} random tokens whose own logit the head makes the {extreme} of "
            f"{len(self.ids)}; null: the tokens are shuffled",
            value=share,
            null_value=1 / len(self.ids),
            threshold=LEAST_SHARE,
        )
