"""Chunks of attention patterns, and the detection patterns of head roles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.wire.frames import TensorPiece

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]
PatternMask = NDArray[np.bool_]
NO_KEY = -1


@dataclass(frozen=True, slots=True)
class PatternChunk:
    """Attention weights of some queries of one layer.

    Args:
        weights: float32 (head, query, key); rows sum to 1, or to less if an attention sink takes the rest.
        queries: positions of the queries (query,).
        keys: positions of the keys (key,); NO_KEY is an empty slot of a rotating cache.
    """

    weights: Floats
    queries: Positions
    keys: Positions

    @classmethod
    def of(cls, piece: TensorPiece) -> PatternChunk:
        """A captured piece of `attention_pattern`, (1, head, query, key)."""
        weights = np.asarray(piece.array[0], np.float32)
        count = weights.shape[1]
        queries = piece.positions or range(piece.first_position, piece.first_position + count)
        keys = piece.key_positions or range(weights.shape[2])
        return cls(weights, np.asarray(queries, np.int64), np.asarray(keys, np.int64))

    def at(self, keys: Positions) -> Floats:
        """The weights at one key for each query (head, query); 0 if the chunk does not have the key.

        Args:
            keys: positions (query,); NO_KEY: none.
        """
        columns = np.full(max(int(self.keys.max()), int(keys.max())) + 2, NO_KEY, np.int64)  # the last for NO_KEY
        held = self.keys >= 0
        columns[self.keys[held]] = np.flatnonzero(held)
        column = columns[keys]
        found = self.weights[:, np.arange(len(self.queries)), column]
        return np.where(column >= 0, found, 0).astype(np.float32)


def previous_tokens(tokens: Positions, queries: Positions, keys: Positions) -> PatternMask:
    """The previous token, as in TransformerLens' `previous_token_head`."""
    return keys[None, :] == queries[:, None] - 1


def duplicate_tokens(tokens: Positions, queries: Positions, keys: Positions) -> PatternMask:
    """Earlier occurrences of the same token, as in TransformerLens' `duplicate_token_head`."""
    return (tokens[keys][None, :] == tokens[queries][:, None]) & (keys[None, :] < queries[:, None])


def induction_tokens(tokens: Positions, queries: Positions, keys: Positions) -> PatternMask:
    """Tokens after earlier occurrences of the same token, as in TransformerLens' `induction_head`."""
    return duplicate_tokens(tokens, queries, np.maximum(keys - 1, 0)) & (keys > 0)


DETECTORS = {"previous_token": previous_tokens, "duplicate_token": duplicate_tokens, "induction": induction_tokens}
"""Detection patterns of TransformerLens' head_detector by name; functions of tokens, queries and keys (query, key)."""
