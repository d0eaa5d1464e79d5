"""Pairs of prompts with two names, as in indirect object identification (IOI)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis import tokenized_pairs
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.tokenized_pairs import TokenizedPair

FIELD = "named_pairs"


@dataclass(frozen=True, slots=True)
class NamedPair:
    """One pair."""

    tokens: TokenizedPair
    answer_position: int
    """Position of the answer in the clean prompt: IO."""
    repeated_position: int
    """Position of the second occurrence of the other name: S2."""

    @property
    def ids(self) -> list[int]:
        """The clean prompt."""
        return self.tokens.clean

    def to_message(self) -> pb.NamedPairTokens:
        """This pair as a message of the plan."""
        return pb.NamedPairTokens(
            clean=tokenized_pairs.token_ids_message(self.tokens.clean),
            corrupted=tokenized_pairs.token_ids_message(self.tokens.corrupted),
            answer_id=self.tokens.answer,
            other_id=self.tokens.other,
            answer_position=self.answer_position,
            repeated_position=self.repeated_position,
        )


async def resolve_named_pairs(given: Sequence[pb.NamedPair], model: RemoteModel, most: int) -> list[NamedPair]:
    """The named pairs of a request with their positions.

    Raises:
        InvalidRequestError, ContextLengthError: a pair is invalid.
    """
    fields = [f"{FIELD}[{index}].pair" for index in range(len(given))]
    tokens = await tokenized_pairs.tokenize_pairs([each.pair for each in given], model, fields, most)
    return [
        _resolve_positions(each, of, f"{FIELD}[{index}]")
        for index, (each, of) in enumerate(zip(given, tokens, strict=True))
    ]


def _resolve_positions(given: pb.NamedPair, tokens: TokenizedPair, field: str) -> NamedPair:
    places = {
        name: [place for place, id in enumerate(tokens.clean) if id == token]
        for name, token in (("answer", tokens.answer), ("other", tokens.other))
    }
    if given.HasField("answer_position"):
        answer = _check_position(given.answer_position, tokens, f"{field}.answer_position")
    elif len(places["answer"]) == 1:
        answer = places["answer"][0]
    else:
        raise InvalidRequestError(
            f"the answer stands {len(places['answer'])} times in the clean prompt: once is wanted, or answer_position",
            field=f"{field}.pair.answer",
        )
    if given.HasField("repeated_position"):
        repeated = _check_position(given.repeated_position, tokens, f"{field}.repeated_position")
    elif len(places["other"]) > 1:
        repeated = places["other"][-1]
    else:
        raise InvalidRequestError(
            f"the other name stands {len(places['other'])} times in the clean prompt: twice is wanted, or "
            "repeated_position",
            field=f"{field}.pair.other",
        )
    return NamedPair(tokens, answer, repeated)


def _check_position(position: int, tokens: TokenizedPair, field: str) -> int:
    if position >= len(tokens.clean):
        raise InvalidRequestError(f"the clean prompt has {len(tokens.clean)} tokens", field=field)
    return position
