"""What every part of a request has in common.

No string passes for a number, NaN is refused, an unknown field is an error. A parameter of OpenAI's that would change
the answer and that the engine does not have is accepted only at its neutral value (`Only`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_INT32 = 2**31 - 1
UNSUPPORTED = "unsupported_parameter"
INVALID = "invalid_value"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(INVALID, "Text must be valid Unicode, without lone surrogates") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Only:
    """A parameter without effect here, accepted only at one of its neutral values or null.

    n: Annotated[Any, Only(1)] = None
    """

    def __init__(self, *neutral: Any) -> None:
        self.neutral = (*neutral, None)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic calls."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What OpenAPI shows."""
        return {"enum": list(self.neutral), "description": "Not supported: accepted at these values only."}

    def _check(self, value: Any) -> Any:
        # True equals 1 and False equals 0, but neither is a number of JSON.
        if any(value == neutral and isinstance(value, bool) is isinstance(neutral, bool) for neutral in self.neutral):
            return value
        accepted = " or ".join("null" if neutral is None else repr(neutral) for neutral in self.neutral)
        raise PydanticCustomError(
            UNSUPPORTED, "This parameter is not supported; leave it out (accepted: {accepted})", {"accepted": accepted}
        )


class Strict(BaseModel):
    """What every part of a request has in common."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
