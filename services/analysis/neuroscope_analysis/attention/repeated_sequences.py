"""Repeated random sequences (Olsson et al. 2022, arXiv:2209.11895)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope_analysis.attention.patterns import NO_KEY, Positions

_DEFAULT_COUNT, _DEFAULT_BLOCK_LENGTH = 16, 24
_MIN_BLOCK_LENGTH, _MAX_COUNT, _MAX_BLOCK_LENGTH = 4, 256, 4096


@dataclass(frozen=True, slots=True)
class RepeatedSequences:
    """Random sequences of one length, each a prefix and a block that occurs twice.

    Args:
        ids: token ids of each sequence.
        references: as many other sequences, for mean ablation.
        prefix_length: 1 for a beginning-of-sequence token, else 0.
        block_length: tokens of a block.
        token_ids: the tokens that blocks are drawn from.
        seed: of the draws.
    """

    ids: list[list[int]]
    references: list[list[int]]
    prefix_length: int
    block_length: int
    token_ids: Sequence[int]
    seed: int

    @classmethod
    def draw(cls, wanted: pb.RandomSequences, model: inference_pb2.Model) -> RepeatedSequences:
        """Draws the sequences of a request.

        Raises:
            InvalidRequestError: a number is out of range, or there are too few tokens.
        """
        tokens = _candidate_tokens(wanted, model)
        has_bos = model.HasField("bos_token_id")
        prefix = [model.bos_token_id] if has_bos else []
        room = (model.context_length - len(prefix)) // 2 if model.context_length else _MAX_BLOCK_LENGTH
        most = min(len(tokens), room)
        if wanted.block_length and not _MIN_BLOCK_LENGTH <= wanted.block_length <= most:
            raise InvalidRequestError(
                f"a block has {_MIN_BLOCK_LENGTH} to {most} tokens on this model, not {wanted.block_length}: tokens "
                "do not repeat within a block, and two blocks must fit the context",
                field="sequences.block_length",
            )
        block = wanted.block_length or min(_DEFAULT_BLOCK_LENGTH, most)
        if block < _MIN_BLOCK_LENGTH:
            raise InvalidRequestError(
                f"{len(tokens)} tokens and a context of {model.context_length} do not fit two blocks of "
                f"{_MIN_BLOCK_LENGTH}",
                field="sequences.token_ids",
            )
        count = wanted.count or _DEFAULT_COUNT
        if not 2 <= count <= _MAX_COUNT:
            raise InvalidRequestError(
                f"the number of sequences must be 2 to {_MAX_COUNT}, not {count}", field="sequences.count"
            )
        random = np.random.default_rng(wanted.seed)
        blocks = [random.choice(tokens, block, replace=False).tolist() for _ in range(2 * count)]
        made = [[*prefix, *one, *one] for one in blocks]
        return cls(made[:count], made[count:], len(prefix), block, tokens, wanted.seed)

    @property
    def length(self) -> int:
        """Number of tokens of a sequence."""
        return self.prefix_length + 2 * self.block_length

    @property
    def first_block(self) -> range:
        """Positions of the first block."""
        return range(self.prefix_length, self.prefix_length + self.block_length)

    @property
    def second_block(self) -> range:
        """Positions of the second block."""
        return range(self.prefix_length + self.block_length, self.length)

    @property
    def predictable(self) -> range:
        """Positions whose next token an induction head can predict."""
        return range(self.prefix_length + self.block_length, self.length - 1)

    def first_block_keys(self, queries: Positions, offset: int = 0) -> Positions:
        """For queries in the second block the position of the same token in the first block plus the offset, else
        NO_KEY."""
        return np.where(queries >= self.prefix_length + self.block_length, queries - self.block_length + offset, NO_KEY)


def _candidate_tokens(wanted: pb.RandomSequences, model: inference_pb2.Model) -> Sequence[int]:
    if wanted.token_ids:
        if max(wanted.token_ids) >= model.vocab_size:
            raise InvalidRequestError(
                f"token {max(wanted.token_ids)} is outside the vocabulary of {model.vocab_size}",
                field="sequences.token_ids",
            )
        return sorted(set(wanted.token_ids))
    special = {*model.eos_token_ids, *([model.bos_token_id] if model.HasField("bos_token_id") else [])}
    return [token for token in range(model.vocab_size) if token not in special]
