"""What every part of a JSON request has in common, and how its mistakes are told.

No string passes for a number, NaN is refused, an unknown field is an error. It imports pydantic, so the SDK's modules
import it only where JSON is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

MAX_INT32 = 2**31 - 1
INVALID = "invalid_value"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(INVALID, "Text must be valid Unicode, without lone surrogates") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class StrictModel(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def error_location(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where one of pydantic's errors lies; of several fields that do not agree, the one at fault."""
    given = error.get("ctx", {}).get("param")
    return (*error["loc"], given) if given else tuple(error["loc"])


def param_path(location: Sequence[str | int]) -> str:
    """`messages[0].role` of ("messages", 0, "role"); the tags of unions, in angle brackets, are left out, and so is
    pydantic's mark of a key that does not fit."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith("<") and part != "[key]":
            text += f".{part}" if text else part
    return text


def error_reason(error: Mapping[str, Any]) -> str:
    """What is wrong there, in words."""
    match error["type"]:
        case "extra_forbidden":
            return "there is no parameter of this name"
        case "missing":
            return "this parameter is required"
        case _:
            return str(error["msg"])
