"""Requests for analyses of the residual stream, from plain Python values."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.experiments.grids import to_indices
from neuroscope.results.residual import PART_NUMBERS, PARTS
from neuroscope.results.tuned_lens import TunedLens
from neuroscope.v1 import experiment_pb2
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.token_choice import token_choice

DEFAULT_PARTS = ("contributions", "attribution", "lens")
AnswerTokens: TypeAlias = "str | SupportsIndex | Sequence[str | SupportsIndex] | None"
"""A token for all prompts, or one for each."""


def residual_request(
    prompt: PromptLike,
    *,
    parts: str | Iterable[str] | None,
    answer: AnswerTokens,
    other: AnswerTokens,
    position: SupportsIndex,
    top_k: int,
    tuned_lens: TunedLens | None,
    neurons: int | Iterable[tuple[int, int]],
    queries: SupportsIndex | Iterable[SupportsIndex] | None,
    by_head: bool,
    references: PromptLike | None,
    corrupted: PromptLike | None,
    least_effect: float,
    tolerance: float,
    max_writers: int,
    model_id: str,
    bos: bool | None,
) -> pb.AnalyzeResidualStreamRequest:
    """The request; arguments are those of `AnalysisClient.analyze_residual_stream`.

    Raises:
        InvalidRequestError: a name or a form is none.
    """
    wanted = [parts] if isinstance(parts, str) else None if parts is None else list(parts)
    if wanted == []:
        raise InvalidRequestError("no part is asked for", field="parts", valid=PARTS)
    chosen = [_part(name, index) for index, name in enumerate(wanted or ())]
    if wanted is None and corrupted is not None:
        chosen = [*map(PART_NUMBERS.__getitem__, DEFAULT_PARTS), pb.RESIDUAL_PART_FLOW]
    is_count = hasattr(neurons, "__index__")
    return pb.AnalyzeResidualStreamRequest(
        model_id=model_id,
        prompts=prompts.to_messages(prompt, bos),
        parts=chosen,
        answers=_tokens(answer, "answer"),
        others=_tokens(other, "other"),
        position=operator.index(position),
        neurons=pb.NeuronSelection(
            strongest=_from_0(neurons, "neurons") if is_count else 0,
            neurons=[] if is_count else [_neuron(each) for each in neurons],  # type: ignore[union-attr]
        ),
        lens=pb.ResidualLens(
            top_k=_from_0(top_k, "top_k"), tuned=None if tuned_lens is None else tuned_lens.to_message()
        ),
        routing=pb.RoutingSelection(queries=() if queries is None else to_indices(queries, "queries"), by_head=by_head),
        ablation=pb.LayerAblation(references=() if references is None else prompts.to_messages(references, bos)),
        flow=pb.FlowSearch(
            corrupted=() if corrupted is None else prompts.to_messages(corrupted, bos),
            least_effect=least_effect,
            tolerance=tolerance,
            max_writers=_from_0(max_writers, "max_writers"),
        ),
    )


def _part(name: str, index: int) -> pb.ResidualPart.ValueType:
    if name not in PART_NUMBERS:
        close = nearest(name, PARTS)
        raise InvalidRequestError(
            f"there is no part {name!r}; nearest: {', '.join(close)}", field=f"parts[{index}]", valid=close
        )
    return PART_NUMBERS[name]


def _tokens(tokens: AnswerTokens, field: str) -> list[experiment_pb2.TokenChoice]:
    if tokens is None:
        return []
    is_one = isinstance(tokens, str) or hasattr(tokens, "__index__")
    listed: list[Any] = [tokens] if is_one else list(tokens)  # type: ignore[arg-type]
    return [token_choice(token, f"{field}[{index}]") for index, token in enumerate(listed)]


def _neuron(place: Any) -> pb.Neuron:
    try:
        layer, neuron = map(operator.index, place)
        return pb.Neuron(layer=layer, neuron=neuron)
    except (TypeError, ValueError):
        raise InvalidRequestError(f"a neuron is (layer, neuron), not {place!r}", field="neurons") from None


def _from_0(number: Any, field: str) -> int:
    found = operator.index(number)
    if not 0 <= found < 2**32:
        raise InvalidRequestError(f"{field} is a whole number from 0, not {number}", field=field)
    return found
