"""The logit lens over one prompt, as steps that either client can follow."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.layer_predictions import LayerPredictions
from neuroscope.base_client.call import CallFlow, CaptureStream
from neuroscope.calls import requests
from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import InterventionLike
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.sites import Point

TEXTS_AT_ONCE = 128
"""Maximum number of token texts per call."""


def logit_lens(
    prompt: PromptLike,
    *,
    top_k: int,
    tokens: Sequence[str | SupportsIndex],
    positions: Any,
    model_id: str,
    interventions: Sequence[InterventionLike],
    bos: bool | None,
) -> CallFlow[LayerPredictions]:
    """The calls of `Client.logit_lens`, whose arguments these are: token ids, one capture, texts of tokens."""
    requested: list[int] = []
    for token in tokens:
        if isinstance(token, str):
            found = yield from requests.tokenize(token, model_id=model_id, bos=False)
            requested.append(single_token(token, found.ids, found.tokens))
        else:
            requested.append(operator.index(token))
    captured = requests.capture(
        prompt,
        hooks(top_k, requested, positions),
        model_id=model_id,
        hook_ids=(),
        interventions=interventions,
        bos=bos,
        stop_at_layer=None,
        chunk_budget_bytes=0,
    )
    cache = yield from CaptureStream(captured)
    texts = yield from texts_of(shown_token_ids(cache, requested), model_id)
    return of_cache(cache, requested, texts)


def texts_of(token_ids: Sequence[int], model_id: str) -> CallFlow[dict[int, str]]:
    """The texts of tokens, by id."""
    texts: dict[int, str] = {}
    for first in range(0, len(token_ids), TEXTS_AT_ONCE):
        some = token_ids[first : first + TEXTS_AT_ONCE]
        spelt = yield from requests.tokenize(some, model_id=model_id, bos=None)
        texts |= zip(some, spelt.tokens, strict=True)
    return texts


def hooks(top_k: int, token_ids: Sequence[int], positions: Any) -> list[Hook]:
    """The hooks of the lens.

    Raises:
        InvalidRequestError: top_k is less than 1.
    """
    if top_k < 1:
        raise InvalidRequestError(f"top_k must be at least 1, not {top_k}", field="top_k")
    reduce = {"lens": {"top_k": top_k, "token_ids": list(token_ids), "kl": True}}
    return [
        Hook("resid_pre", 0, positions=positions, reduce=reduce),
        Hook("resid_post", positions=positions, reduce=reduce),
    ]


def single_token(text: str, ids: Sequence[int], texts: Sequence[str]) -> int:
    """The id of a text that is one token.

    Raises:
        InvalidRequestError: the text is several tokens.
    """
    if len(ids) != 1:
        parts = ", ".join(map(repr, texts))
        raise InvalidRequestError(f"{text!r} is not one token but {len(ids)}: {parts}", field="tokens")
    return ids[0]


def shown_token_ids(cache: ActivationCache, requested: Sequence[int]) -> list[int]:
    """Every token id that the results show."""
    found = [array for name, array in cache.items() if str(name).split(":")[-1].startswith("lens_top_k_tokens")]
    shown = np.unique(np.concatenate([array.reshape(-1) for array in found]))
    return sorted({*map(int, shown), *requested, *cache.token_ids[0]})


def of_cache(cache: ActivationCache, requested: Sequence[int], texts: Mapping[int, str]) -> LayerPredictions:
    """The results of a capture with `hooks`.

    Raises:
        InvalidRequestError: the capture has several prompts.
    """
    if len(cache.token_ids) != 1:
        raise InvalidRequestError(f"a lens takes one prompt, not {len(cache.token_ids)}", field="prompt")
    points = sorted({point for point in cache.points if point.layer is not None}, key=_height)
    positions = [int(position) for position in cache.positions(f"{points[0]}:lens_top_k")]

    def stacked(name: str) -> Any:
        return np.stack([cache[f"{point}:{name}"][0] for point in points])

    count = (len(points), len(positions), 0)
    return LayerPredictions(
        model_id=cache.model_id,
        points=tuple(points),
        positions=tuple(positions),
        token_ids=tuple(cache.token_ids[0][position] for position in positions),
        requested_token_ids=tuple(requested),
        top_token_ids=stacked("lens_top_k_tokens"),
        top_log_probabilities=stacked("lens_top_k"),
        log_probabilities=stacked("lens_log_probability") if requested else np.zeros(count, np.float32),
        ranks=stacked("lens_rank") if requested else np.zeros(count, np.int32),
        kl=stacked("lens_kl"),
        texts=texts,
    )


def _height(point: Point) -> tuple[int, bool]:
    return (point.layer or 0), point.component != "resid_pre"
