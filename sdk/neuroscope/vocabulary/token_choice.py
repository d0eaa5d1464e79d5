"""A token that a request names, by its id or its text."""

from __future__ import annotations

import operator
from typing import Any

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb


def token_choice(token: Any, field: str) -> pb.TokenChoice:
    """A token as requests carry it.

    Args:
        token: its id, or a text that is exactly one token.
        field: path of the token, for errors.

    Raises:
        InvalidRequestError: it is neither.
    """
    if isinstance(token, str):
        return pb.TokenChoice(text=token)
    if hasattr(token, "__index__") and not isinstance(token, bool) and 0 <= operator.index(token) < 2**32:
        return pb.TokenChoice(id=operator.index(token))
    raise InvalidRequestError(f"a token is a text or an id from 0, not {token!r}", field=field)
