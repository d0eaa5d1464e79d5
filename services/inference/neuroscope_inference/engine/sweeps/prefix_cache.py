"""Keys and values of an unedited run, and caches that begin with them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache


class PrefixUnavailableError(Exception):
    """A layer keeps something that has no prefix. Nobody's error: sweeps then run another way."""


class FullCache(KVCache):
    """Keys and values of all positions, whatever the layer's window is; masks keep to it.

    Args:
        window: positions that a query sees, its own included; None: all.
    """

    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.window = window

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> Any:
        """The mask of N more positions, as the layer's own cache would make it of a single chunk."""
        window = window_size or self.window
        if N == 1 and not (window and self.offset >= window):
            return None
        if return_array or (window and self.offset + N > window):
            return create_causal_mask(N, self.offset, window_size=window)
        return "causal"


class PrefixCache(FullCache):
    """Begins with the first positions of another cache, the same for every row.

    Args:
        whole: of the unedited run, one row.
        length: positions to begin with.
    """

    def __init__(self, whole: FullCache, length: int) -> None:
        super().__init__(whole.window)
        self.offset = length
        kept: Any = whole.state
        self._prefix = (kept[0][:, :, :length], kept[1][:, :, :length]) if length else None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values (rows, heads, positions, width) with the prefix before them."""
        self.offset += keys.shape[2]
        if self._prefix is not None:
            keys, values = _prepend(self._prefix[0], keys), _prepend(self._prefix[1], values)
        self._prefix = keys, values
        return keys, values


def _prepend(prefix: mx.array, new: mx.array) -> mx.array:
    return mx.concatenate([mx.broadcast_to(prefix, (new.shape[0], *prefix.shape[1:])), new], axis=2)


def new_full_caches(network: nn.Module) -> list[FullCache]:
    """Empty caches for an unedited run whose prefixes are to be reused.

    Raises:
        PrefixUnavailableError: says which layer keeps something else than the keys and values of its positions.
    """
    return [_full_cache(layer, index) for index, layer in enumerate(make_prompt_cache(network))]


def _full_cache(layer: Any, index: int) -> FullCache:
    if type(layer) is KVCache:
        return FullCache(None)
    if type(layer) is RotatingKVCache and not layer.keep:
        return FullCache(layer.max_size)
    raise PrefixUnavailableError(
        f"layer {index} keeps a {type(layer).__name__}, which has no prefix that could be reused"
    )
