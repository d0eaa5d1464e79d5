"""Key/value caches of prompts that were read before, for prompts that begin with the same tokens.

A position that is taken from here is not computed, so nothing can be read or edited there: `Forward.first_needed` says
how far a prompt may be taken. Only generations without any edit leave their caches here.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.models.cache import LRUPromptCache

from neuroscope_inference.engine.caches import Cache

_MAX_PROMPTS = 64
_KEY = "model"


class PromptCache:
    """The caches of one model, least recently kept first to go. For the engine's thread.

    Args:
        max_bytes: what they may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept = LRUPromptCache(_MAX_PROMPTS, max_bytes)

    @property
    def is_enabled(self) -> bool:
        """Whether anything is kept at all."""
        return self._max_bytes > 0

    def fetch(self, tokens: Sequence[int]) -> tuple[Cache | None, int]:
        """A cache of the longest known beginning of these tokens, the caller's own, and how many it holds."""
        if not tokens or not self.is_enabled:
            return None, 0
        cache, rest = self._kept.fetch_nearest_cache(_KEY, list(tokens))
        return cache, len(tokens) - len(rest)

    def insert(self, tokens: Sequence[int], cache: Cache) -> None:
        """Keeps a cache that holds exactly these tokens; nobody may change it any more."""
        mx.eval([layer.state for layer in cache])
        self._kept.insert_cache(_KEY, list(tokens), cache)
