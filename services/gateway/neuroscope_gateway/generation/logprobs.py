"""Log-probabilities of generated tokens in OpenAI's form."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from neuroscope.activations.stream import GeneratedToken
from neuroscope.errors import DataConversionError

MIN_LOGPROB = -9999.0
"""What OpenAI writes for a probability of zero, whose logarithm JSON cannot carry."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

TokenText = Callable[[int], Awaitable[str]]
"""Gives the text of a token id by itself."""


async def token_logprob(token: GeneratedToken, count: int, token_text: TokenText) -> dict[str, Any] | None:
    """The entry of a token; None for the one that only ended the text, which is no part of the answer.

    Args:
        token: with at least one alternative.
        count: alternatives wanted.
        spell: asked for a drawn token that is not among the alternatives.
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
    # A token that is part of a character has no text of its own, and its bytes are not known here.
    spelt = None if _REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, MIN_LOGPROB), "bytes": spelt}
