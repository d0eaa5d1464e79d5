"""Features of a dictionary over one prompt, as call flows for both clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neuroscope.base_client.call import CallFlow, CaptureStream
from neuroscope.calls import requests
from neuroscope.dictionaries.dictionary import Dictionary
from neuroscope.dictionaries.features import FeatureActivations
from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import InterventionLike
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.selection import Positions

_TOP, _INDICES = "top_features", "top_features_indices"
_L0, _ERROR, _NORM = "features_l0", "features_squared_error", "features_squared_norm"
_MEAN = "mean of what is reconstructed"


def feature_activations(
    dictionary: Dictionary,
    prompt: PromptLike,
    *,
    top: int,
    positions: Positions,
    interventions: Sequence[InterventionLike],
    bos: bool | None,
) -> CallFlow[FeatureActivations]:
    """The calls of `LoadedDictionary.features`, whose arguments these are: one capture, then texts of tokens."""
    if not 1 <= top <= dictionary.feature_count:
        raise InvalidRequestError(f"top must be 1 to {dictionary.feature_count}, not {top}", field="top")
    output = dictionary.output
    mean = Hook(
        output.component, output.layer, is_input=output.is_input, hook_id=_MEAN, positions=positions, reduce="mean"
    )
    captured = requests.capture(
        prompt,
        [dictionary.hook(top, l0=True, error=True, positions=positions), mean],
        model_id=dictionary.description.model_id,
        hook_ids=(),
        interventions=interventions,
        bos=bos,
        stop_at_layer=None,
        chunk_budget_bytes=0,
    )
    cache = yield from CaptureStream(captured)
    if len(cache.token_ids) != 1:
        raise InvalidRequestError(f"features are of one prompt, not of {len(cache.token_ids)}", field="prompt")
    named = f"{dictionary.point}:{_TOP}"
    places = [int(position) for position in cache.positions(named)]
    read = [cache.token_ids[0][position] for position in places]
    shown = sorted(set(read))
    spelt = yield from requests.tokenize(shown, model_id=dictionary.description.model_id, bos=None)

    def part(name: str) -> Any:
        return cache[f"{dictionary.point}:{name}"][0]

    averaged = np.asarray(cache[_MEAN][0], np.float64)
    return FeatureActivations(
        dictionary.description,
        tuple(places),
        tuple(read),
        dict(zip(shown, spelt.tokens, strict=True)),
        part(_TOP),
        part(_INDICES),
        part(_L0),
        part(_ERROR),
        part(_NORM),
        float(np.square(averaged).sum()),
    )
