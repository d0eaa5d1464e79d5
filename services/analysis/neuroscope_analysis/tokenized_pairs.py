"""Tokenized pairs of prompts with answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import answered_pair_pb2, inference_pb2
from neuroscope_analysis.remote_model import RemoteModel


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One pair."""

    clean: list[int]
    corrupted: list[int]
    answer: int
    other: int


async def tokenize_pairs(
    pairs: Sequence[answered_pair_pb2.AnsweredPair], model: RemoteModel, fields: Sequence[str], max_pairs: int
) -> list[TokenizedPair]:
    """Tokenizes at least two pairs.

    Args:
        pairs: pairs of the request.
        model: the model.
        fields: their paths in the request.
        max_pairs: the setting max_prompts.

    Raises:
        InvalidRequestError, ContextLengthError: a pair is invalid.
    """
    if len(pairs) < 2:
        raise InvalidRequestError("one pair has no noise to be told apart from: give two at least", field=fields[0])
    if len(pairs) > max_pairs:
        raise InvalidRequestError(
            f"at most {max_pairs} pairs a request (the setting max_prompts)", field=fields[max_pairs]
        )
    found: list[TokenizedPair] = []
    for pair, field in zip(pairs, fields, strict=True):
        clean = await model.tokenize_prompt(pair.clean, f"{field}.clean")
        corrupted = await model.tokenize_prompt(pair.corrupted, f"{field}.corrupted")
        if len(clean) != len(corrupted):
            raise InvalidRequestError(
                f"the clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}: a path is patched "
                "position by position",
                field=f"{field}.corrupted",
            )
        answer = await model.token_id(pair.answer, f"{field}.answer")
        other = await model.token_id(pair.other, f"{field}.other")
        if answer == other:
            raise InvalidRequestError("the answer is compared with itself", field=f"{field}.other")
        found.append(TokenizedPair(clean.ids, corrupted.ids, answer, other))
    return found


def token_ids_message(ids: Sequence[int]) -> inference_pb2.TokenIds:
    """Token ids as a message of the contract."""
    return inference_pb2.TokenIds(ids=ids)
