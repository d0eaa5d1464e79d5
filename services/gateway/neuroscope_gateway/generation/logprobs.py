"""Log-probabilities of generated tokens in OpenAI's format."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from neuroscope.activations.stream import GeneratedToken
from neuroscope.errors import DataConversionError

MIN_LOGPROB = -9999.0
"""OpenAI's log-probability of probability zero, whose logarithm JSON cannot represent."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

TokenText = Callable[[int], Awaitable[str]]
"""Returns the text of a token id."""


async def token_logprob(token: GeneratedToken, count: int, token_text: TokenText) -> dict[str, Any] | None:
    """The log-probabilities of a token; None for a stop token, which is not part of the answer.

    Args:
        token: a token with at least one alternative.
        count: number of alternatives to return.
        token_text: called for a sampled token that is not among the alternatives.
    """
    if token.finish_reason == "stop" and not token.text:
        return None
    text = next((top.text for top in token.top_logprobs if top.token_id == token.token_id), None)
    if text is None:
        text = await token_text(token.token_id)
    tops = [_logprob(top.text, top.logprob) for top in token.top_logprobs[:count]]
    return _logprob(text, token.logprob) | {"top_logprobs": tops}


def _logprob(text: str, logprob: float) -> dict[str, Any]:
    if math.isnan(logprob):
        raise DataConversionError("the model's logits are NaN, so that tokens have no probability", field="logprobs")
    # a token with a part of a character has no text, and its bytes are unknown here
    spelt = None if _REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, MIN_LOGPROB), "bytes": spelt}
