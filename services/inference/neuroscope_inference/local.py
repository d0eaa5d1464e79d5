"""In-process transports. The SDK finds them through the entry point group `neuroscope.transports`."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope_inference.service import InferenceService
from neuroscope_inference.settings import InferenceSettings
from neuroscope_serving.in_process import AsyncInProcessTransport, InProcessTransport


class AsyncLocalTransport(AsyncInProcessTransport):
    """The in-process transport of the async client, for one event loop.

    Args:
        settings: fields of `InferenceSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(InferenceService(_parse_settings(settings)))


class LocalTransport(InProcessTransport):
    """The in-process transport of the sync client.

    Args:
        settings: fields of `InferenceSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(lambda: AsyncLocalTransport(**settings))


def _parse_settings(settings: dict[str, Any]) -> InferenceSettings:
    """Validates settings.

    Raises:
        InvalidRequestError: a setting is unknown or has an invalid value.
    """
    try:
        return InferenceSettings(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] != "extra_forbidden":
            raise InvalidRequestError(f"{field}: {problem['msg']}", field=field) from None
        valid = nearest(field, InferenceSettings.model_fields)
        raise InvalidRequestError(
            f"there is no setting {field!r}; there are {', '.join(valid)} among others", field=field, valid=valid
        ) from None
