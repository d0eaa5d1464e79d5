"""Alignment of the positions of two prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope_analysis.attention.patterns import Positions


@dataclass(frozen=True, slots=True)
class Alignment:
    """Aligned positions."""

    kind: pb.Alignment.ValueType
    first: Positions
    """Positions of the first prompt, increasing (pair,)."""
    second: Positions
    """Positions of the second prompt, increasing (pair,)."""


def align(first: Sequence[int], second: Sequence[int], wanted: pb.Alignment.ValueType) -> Alignment:
    """Aligns two prompts.

    Args:
        first: token ids.
        second: token ids.
        wanted: the kind of alignment; unspecified: by positions if the lengths are equal, else by tokens.

    Raises:
        InvalidRequestError: the prompts cannot be aligned this way.
    """
    if wanted == pb.ALIGNMENT_UNSPECIFIED:
        wanted = pb.ALIGNMENT_POSITIONS if len(first) == len(second) else pb.ALIGNMENT_TOKENS
    match wanted:
        case pb.ALIGNMENT_POSITIONS:
            if len(first) != len(second):
                raise InvalidRequestError(
                    f"the prompts have {len(first)} and {len(second)} tokens: align them by tokens", field="alignment"
                )
            places = np.arange(len(first))
            return Alignment(wanted, places, places)
        case pb.ALIGNMENT_TOKENS:
            blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
            pairs = [(block.a + at, block.b + at) for block in blocks for at in range(block.size)]
            if not pairs:
                raise InvalidRequestError("the prompts have no token in common", field="alignment")
            left, right = np.array(pairs, np.int64).T
            return Alignment(wanted, left, right)
        case _:
            raise InvalidRequestError(f"there is no alignment of number {wanted}", field="alignment")
