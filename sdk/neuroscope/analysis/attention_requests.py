"""Requests for analyses of attention, from plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

from neuroscope.datasets import pairs
from neuroscope.datasets.pairs import PairLike
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.experiments.grids import to_indices
from neuroscope.results.labels import ROLE_NUMBERS, ROLES
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.prompts import PromptLike


def attention_request(
    prompt: PromptLike | None,
    *,
    layers: SupportsIndex | Iterable[SupportsIndex] | None,
    roles: str | Iterable[str] | None,
    thresholds: Mapping[str, float] | None,
    seed: int,
    sequences: int,
    block_length: int,
    token_ids: Sequence[int],
    test: bool,
    least_effect_nats: float,
    significance: float,
    complete: bool,
    named_pairs: Iterable[PairLike] | None,
    model_id: str,
    bos: bool | None,
) -> pb.AnalyzeAttentionRequest:
    """The request; arguments are those of `AnalysisClient.analyze_attention`.

    Raises:
        InvalidRequestError: a name or a form is none.
    """
    wanted = [roles] if isinstance(roles, str) else None if roles is None else list(roles)
    return pb.AnalyzeAttentionRequest(
        model_id=model_id,
        prompts=[] if prompt is None else prompts.to_messages(prompt, bos),
        layers=() if layers is None else to_indices(layers, "layers"),
        roles=[_role(name, f"roles[{index}]") for index, name in enumerate(wanted or ())],
        statistics_only=wanted == [],
        sequences=random_sequences(seed, sequences, block_length, token_ids),
        thresholds=[
            pb.RoleThreshold(role=_role(name, "thresholds"), score=score) for name, score in (thresholds or {}).items()
        ],
        causal_test=pb.CausalTest(
            skip=not test, least_effect_nats=least_effect_nats, significance=significance, complete=complete
        ),
        named_pairs=pairs.named_pairs(named_pairs, bos),
    )


def random_sequences(seed: int, sequences: int, block_length: int, token_ids: Sequence[int]) -> pb.RandomSequences:
    """Random sequences as requests carry them.

    Raises:
        InvalidRequestError: a number is out of its range.
    """
    return pb.RandomSequences(
        seed=_from_0(seed, "seed"),
        count=_from_0(sequences, "sequences"),
        block_length=_from_0(block_length, "block_length"),
        token_ids=prompts.token_ids(token_ids),
    )


def _role(name: str, field: str) -> pb.HeadRole.ValueType:
    if name not in ROLE_NUMBERS:
        close = nearest(name, ROLES)
        raise InvalidRequestError(f"there is no role {name!r}; nearest: {', '.join(close)}", field=field, valid=close)
    return ROLE_NUMBERS[name]


def _from_0(number: int, field: str) -> int:
    if not 0 <= number < 2**32:
        raise InvalidRequestError(f"{field} is a whole number from 0, not {number}", field=field)
    return number
