"""Key/value caches: of one row, exact or quantised; of several rows as one, and whether a model's can be that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache, RotatingKVCache, make_prompt_cache

from neuroscope_inference.engine.identities import relative_error, tolerance_of

_log = logging.getLogger(__name__)
Cache = list[Any]
_PROBE_PROMPTS = ([3, 1, 2], [1, 2, 3, 1, 2])


QUANTIZED_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
DEFAULT_GROUP_SIZE = 64


@dataclass(frozen=True, slots=True)
class CacheQuantization:
    """How keys and values are kept in fewer bits: from the first position on, whatever the chunks are."""

    bits: int
    group_size: int


def new_cache(network: nn.Module, quantization: CacheQuantization | None = None) -> Cache:
    """An empty cache of one row."""
    cache: Cache = make_prompt_cache(network)
    if quantization is None:
        return cache
    return [
        QuantizedKVCache(quantization.group_size, quantization.bits) if type(layer) is KVCache else layer
        for layer in cache
    ]


def why_not_quantised(network: nn.Module, quantization: CacheQuantization) -> str:
    """Why keys and values of a model cannot be quantised like that: a probe with two tokens; empty if they can."""
    cache = new_cache(network, quantization)
    if has_rotating_cache(cache):
        return "some layers keep their keys in a ring, which MLX does not quantise"
    if not any(isinstance(layer, QuantizedKVCache) for layer in cache):
        return "the model's own cache holds no plain keys and values"
    call: Any = network
    try:
        mx.eval(call(mx.array([[1, 2]]), cache=cache))
    except Exception as error:  # whatever the model's code makes of keys that are no arrays
        return f"the model cannot attend to them: {str(error).strip() or type(error).__name__}"
    return ""


def merge(caches: Sequence[Cache]) -> Cache:
    """Caches of single rows as one of a batch, shorter rows padded on the left."""
    return [type(layers[0]).merge(list(layers)) for layers in zip(*caches, strict=True)]


def extract(cache: Cache, slot: int) -> Cache:
    """The cache of one row of a batch."""
    return [layer.extract(slot) for layer in cache]


def keep_rows(cache: Cache, slots: Sequence[int]) -> None:
    """Drops all other rows of a batch."""
    chosen = mx.array(list(slots))
    for layer in cache:
        layer.filter(chosen)


def extend(cache: Cache, other: Cache) -> None:
    """Appends the rows of another batch."""
    for layer, joining in zip(cache, other, strict=True):
        layer.extend(joining)


def has_rotating_cache(cache: Cache) -> bool:
    """Whether some layer keeps its keys in a ring, so that columns do not stand for positions."""
    return any(isinstance(layer, RotatingKVCache) for layer in _flatten(cache))


def can_batch(network: nn.Module, vocab_size: int) -> bool:
    """Whether one step of two rows together gives what each gives alone: a probe with two short prompts."""
    call: Any = network
    try:
        caches = [make_prompt_cache(network) for _ in _PROBE_PROMPTS]
        if any(isinstance(layer, QuantizedKVCache) or not hasattr(layer, "merge") for layer in _flatten(caches[0])):
            return False
        for prompt, cache in zip(_PROBE_PROMPTS, caches, strict=True):
            mx.eval(call(mx.array([[token % vocab_size for token in prompt]]), cache=cache))
        merged = merge(caches)
        together = call(mx.array([[1], [1]]), cache=merged)
        alone = [call(mx.array([[1]]), cache=cache) for cache in caches]
        error = relative_error(together, mx.concatenate(alone))
        tolerance = tolerance_of(together.dtype)
        back = relative_error(call(mx.array([[2]]), cache=extract(merged, 0)), call(mx.array([[2]]), cache=caches[0]))
    except Exception as error:
        _log.info("rows of this model run one by one: %s", error)
        return False
    return error <= tolerance and back <= tolerance


def _flatten(cache: Sequence[Any]) -> list[Any]:
    return [part for layer in cache for part in (_flatten(layer.caches) if isinstance(layer, CacheList) else [layer])]
