"""The grammar of one row while it is generated: which token may come next."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from neuroscope.errors import InvalidRequestError
from neuroscope_inference.engine.arrays import from_numpy

_MAX_REASON = 300


class TokenConstraint:
    """A compiled grammar and the tokens that were drawn of it.

    Args:
        matcher: llguidance's state.
        field: of the request, named in errors.
    """

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher = matcher
        self._field = field

    @classmethod
    def compile(cls, grammar: str, vocabulary: LLTokenizer, field: str) -> TokenConstraint:
        """Compiles a grammar; large ones take up to a second, without the interpreter's lock.

        Raises:
            InvalidRequestError: the grammar has an error, or allows no text.
        """
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequestError(f"not enforceable: {one_line(matcher.get_error())}", field=field)
        matcher.compute_bitmask()  # finds that nothing may come, and fills caches that copies share
        if matcher.is_error():
            raise InvalidRequestError(f"not enforceable: {one_line(matcher.get_error())}", field=field)
        if matcher.is_stopped() and not matcher.is_accepting():
            raise InvalidRequestError("no text satisfies it", field=field)
        return cls(matcher, field)

    def copy(self) -> TokenConstraint:
        """The same state, for another row."""
        return TokenConstraint(self._matcher.deep_copy(), self._field)

    def allowed(self, size: int) -> mx.array:
        """Which tokens may come next, (size,), bool: those of the grammar, and end-of-sequence tokens where it may end.

        Raises:
            InvalidRequestError: the grammar is too complex from here on.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return from_numpy(np.unpackbits(bits, count=size, bitorder="little").view(np.bool_))

    def accept(self, token_id: int) -> None:
        """Takes a drawn token.

        Raises:
            InvalidRequestError: the grammar is too complex from here on, or does not allow the token, which happens
                where logits are not finite.
        """
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequestError(
                f"the constraint cannot go on: {one_line(self._matcher.get_error())}", field=self._field
            )


def one_line(reason: str) -> str:
    """What llguidance says, on one line and without the state that it appends."""
    return " ".join(reason.split("<state>")[0].split())[:_MAX_REASON]
