"""OpenAI parameters that are not supported: accepted at neutral values only."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

UNSUPPORTED_PARAMETER = "unsupported_parameter"


class Unsupported:
    """A parameter that is accepted at one of its neutral values or null only.

    n: Annotated[Any, Unsupported(1)] = None
    """

    def __init__(self, *accepted: Any) -> None:
        self.accepted = (*accepted, None)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validation."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON schema."""
        return {"enum": list(self.accepted), "description": "Not supported: accepted at these values only."}

    def _check(self, value: Any) -> Any:
        # in Python True == 1 and False == 0; in JSON they are different values
        if any(value == neutral and isinstance(value, bool) is isinstance(neutral, bool) for neutral in self.accepted):
            return value
        accepted = " or ".join("null" if neutral is None else repr(neutral) for neutral in self.accepted)
        raise PydanticCustomError(
            UNSUPPORTED_PARAMETER,
            "This parameter is not supported; leave it out (accepted: {accepted})",
            {"accepted": accepted},
        )
