"""Requests for comparisons of heads, from plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from neuroscope.analysis.attention_requests import random_sequences
from neuroscope.datasets import pairs
from neuroscope.datasets.pairs import PairLike
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.grids import to_indices
from neuroscope.results.comparison import ALIGNMENTS
from neuroscope.v1 import attention_comparison_pb2, composition_pb2, interaction_pb2
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.prompts import Prompt

Layers = SupportsIndex | Iterable[SupportsIndex] | None


def comparison_request(
    first: Prompt, second: Prompt, *, layers: Layers, alignment: str, model_id: str, bos: bool | None
) -> attention_comparison_pb2.CompareAttentionRequest:
    """The request; arguments are those of `AnalysisClient.compare_attention`.

    Raises:
        InvalidRequestError: a name or a form is none.
    """
    if alignment not in ALIGNMENTS:
        raise InvalidRequestError(f"there is no alignment {alignment!r}", field="alignment", valid=ALIGNMENTS)
    return attention_comparison_pb2.CompareAttentionRequest(
        model_id=model_id,
        first=prompts.to_message(first, bos),
        second=prompts.to_message(second, bos),
        layers=_layers(layers),
        alignment=ALIGNMENTS[alignment],
    )


def composition_request(
    *, layers: Layers, seed: int, random_pairs: int, model_id: str
) -> composition_pb2.MeasureCompositionRequest:
    """The request; arguments are those of `AnalysisClient.measure_composition`.

    Raises:
        InvalidRequestError: a number is out of its range.
    """
    for name, number in (("seed", seed), ("random_pairs", random_pairs)):
        if not 0 <= number < 2**32:
            raise InvalidRequestError(f"{name} is a whole number from 0, not {number}", field=name)
    return composition_pb2.MeasureCompositionRequest(
        model_id=model_id, layers=_layers(layers), seed=seed, random_pairs=random_pairs
    )


def interactions_request(
    given: Iterable[PairLike] | None,
    *,
    layers: Layers,
    seed: int,
    sequences: int,
    block_length: int,
    token_ids: Sequence[int],
    least_effect: float,
    false_discovery_rate: float,
    every_head: bool,
    model_id: str,
    bos: bool | None,
) -> interaction_pb2.MapInteractionsRequest:
    """The request; arguments are those of `AnalysisClient.map_interactions`.

    Raises:
        InvalidRequestError: a pair has another form, or a number is out of its range.
    """
    drawn = random_sequences(seed, sequences, block_length, token_ids)
    return interaction_pb2.MapInteractionsRequest(
        model_id=model_id,
        pairs=pairs.answered_pairs(given, bos),
        sequences=drawn if drawn.ListFields() else None,
        layers=_layers(layers),
        least_effect=least_effect,
        false_discovery_rate=false_discovery_rate,
        every_head=every_head,
    )


def _layers(layers: Layers) -> Sequence[int]:
    return () if layers is None else to_indices(layers, "layers")
