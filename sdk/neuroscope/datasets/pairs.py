"""Pairs of prompts with answers, from mappings, tuples, objects or JSONL files.

    {"clean": "When Mary and John went to the store, John gave a drink to",
     "corrupted": "When Mary and John went to the store, Tom gave a drink to", "answer": " Mary", "other": " John"}

Prompts are texts or token ids; answers are single-token texts or ids. Named pairs may have the positions of the names:
`answer_position` and `repeated_position`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from neuroscope.datasets.example import FIELDS, check_names
from neuroscope.datasets.json_lines import read_json_lines
from neuroscope.v1 import answered_pair_pb2, attention_pb2
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.token_choice import token_choice

PairLike: TypeAlias = "Mapping[str, Any] | Sequence[Any] | Any"
"""A mapping with clean, corrupted, answer and other; a tuple in this order; or an object with these attributes."""

_POSITIONS = ("answer_position", "repeated_position")


def answered_pairs(
    pairs: Iterable[PairLike] | None, bos: bool | None, field: str = "pairs"
) -> list[answered_pair_pb2.AnsweredPair]:
    """The contract's messages of pairs.

    Raises:
        InvalidRequestError: a pair has another form; the message names it.
    """
    return [
        _pair(_fields(each, f"{field}[{index}]"), bos, f"{field}[{index}]") for index, each in enumerate(pairs or ())
    ]


def named_pairs(pairs: Iterable[PairLike] | None, bos: bool | None) -> list[attention_pb2.NamedPair]:
    """The contract's messages of pairs with two names; see `answered_pairs`."""
    found: list[attention_pb2.NamedPair] = []
    for index, each in enumerate(pairs or ()):
        field = f"named_pairs[{index}]"
        fields = _fields(each, field)
        found.append(
            attention_pb2.NamedPair(pair=_pair(fields, bos, field), **{name: fields.get(name) for name in _POSITIONS})
        )
    return found


def read_pairs(path: str | Path) -> list[dict[str, Any]]:
    """Reads pairs from a JSONL file.

    Raises:
        InvalidRequestError: as in `neuroscope.datasets.json_lines.read_json_lines`.
    """
    return read_json_lines(path, _fields, "pairs")


def _fields(pair: Any, field: str) -> dict[str, Any]:
    fields: dict[str, Any]
    if isinstance(pair, Mapping):
        fields = dict(cast("Mapping[str, Any]", pair))
    elif isinstance(pair, Sequence) and not isinstance(pair, str):
        fields = dict(zip(FIELDS, cast("Sequence[Any]", pair), strict=False))
    else:
        fields = {name: getattr(pair, name) for name in (*FIELDS, *_POSITIONS) if hasattr(pair, name)}
    check_names(fields, field, optional=_POSITIONS)
    return fields


def _pair(fields: Mapping[str, Any], bos: bool | None, field: str) -> answered_pair_pb2.AnsweredPair:
    return answered_pair_pb2.AnsweredPair(
        clean=prompts.to_message(fields["clean"], bos),
        corrupted=prompts.to_message(fields["corrupted"], bos),
        answer=token_choice(fields["answer"], f"{field}.answer"),
        other=token_choice(fields["other"], f"{field}.other"),
    )
